"""Many jobs: items, the worker that makes them, pictures together, the journal, the page, the Ray engine."""
