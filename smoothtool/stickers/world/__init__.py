"""Icons and the scenes composed from them: what the embedded model is trained on and measured with."""
