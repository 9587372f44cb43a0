"""The policy: which members may talk to which, and on which ports."""
