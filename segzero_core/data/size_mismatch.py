# SPDX-License-Identifier: Apache-2.0
"""Explain why an annotation has another size than its image: turned, scaled, or another image."""

from __future__ import annotations

from segzero_core.data.image_io import PictureHeader
from segzero_core.types import Size

_TOLERANCE = 0.01  # relative: sizes are rounded to pixels when a picture is scaled


def explain_mismatch(header: PictureHeader, given: Size) -> str:
    """Return a clause that names both sizes, the likely cause and the remedy.

    Args:
        header: Header of the image.
        given: Size that the annotation holds for, pixels; it differs from the image's.
    """
    sizes = f'the picture is shown at {_text(header.size)} pixels, the annotation is for '
    sizes += _text(given)
    turned = header.orientation >= 5
    if turned and given == header.stored:
        return (
            f'{sizes}: the picture is turned by its EXIF orientation {header.orientation} and was '
            'annotated as stored. Annotate it as it is shown, or remove the orientation from '
            'the file (exiftool -Orientation= FILE)'
        )
    if given == Size(header.size.height, header.size.width):
        return (
            f'{sizes}: one of them was turned by a quarter, and the file states no orientation. '
            'Turn the picture or annotate it as it is shown'
        )
    if scale := _scale(header.size, given):
        return (
            f'{sizes}: the annotation is for the same picture scaled by {scale:.3g}. Scale the '
            'annotation or use the picture of that size'
        )
    if scale := _scale(Size(header.size.height, header.size.width), given):
        cause = f' by its EXIF orientation {header.orientation}' if turned else ''
        return (
            f'{sizes}: the picture was turned{cause} and scaled by {scale:.3g} after or before '
            'it was annotated. Use the picture that was annotated'
        )
    return f'{sizes}: it is another image'


def _scale(size: Size, given: Size) -> float:
    """Return the common factor of both sides; 0 if their factors differ."""
    if min(*size, *given) < 1:
        return 0.0
    across, down = given.width / size.width, given.height / size.height
    rounding = 1 / given.width + 1 / given.height
    return across if abs(across / down - 1) <= max(_TOLERANCE, rounding) else 0.0


def _text(size: Size) -> str:
    return f'{size.width} x {size.height}'
