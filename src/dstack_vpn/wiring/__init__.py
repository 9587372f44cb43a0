"""The composition root: nothing else knows the adapters. One module for each thing that can be started."""
