"""The files in the images. `make scan` checks for outdated packages, which change daily."""

import pytest
from scripts.scan_images import IMAGES, findings


@pytest.mark.parametrize("image", IMAGES)
def test_nothing_is_in_it_that_has_no_business_there(image: str) -> None:
    assert list(findings(image)) == []
