"""Nodes for ComfyUI: invert, edit, interpolate and drag on its IMAGE and MASK.

Install smoothtool into ComfyUI's Python and put one file into its `custom_nodes`, as `smoothtool_nodes.py`:

    from smoothtool.comfyui import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS
"""

from smoothtool.comfyui.nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
