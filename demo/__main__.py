"""``python -m demo``."""

from demo import demo

demo(prog_name="python -m demo")
