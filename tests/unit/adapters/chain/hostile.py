"""Strategies for hostile replies: arbitrary JSON, and values close to the expected forms."""

from hypothesis import strategies as st

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
hexes = st.text("0123456789abcdefABCDEFx_ +", max_size=70).map(lambda text: "0x" + text)
jsons = st.recursive(
    scalars | hexes,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
