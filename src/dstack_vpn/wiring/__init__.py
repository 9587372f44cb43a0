"""The composition root: only this package imports the adapters. One module per startable part."""
