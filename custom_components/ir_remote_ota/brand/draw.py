"""Draws the icons of this folder: the sign of crates/server/page/icon.svg, in the sizes that Home Assistant wants.

usage: python3 draw.py     (needs Pillow; the results are kept with the code)
"""

from pathlib import Path

from PIL import Image, ImageDraw

SIDE = 32
"""The side of the drawing's grid."""
CORNER = 7
GROUND = "#16191d"
SIGN = "#ffffff"
FLASH = [(18, 4), (8, 18), (14, 18), (12, 28), (24, 13), (17, 13)]
"""The flash: `M18 4 8 18h6l-2 10 12-15h-7z`."""
FINER = 8
"""It is drawn so many times larger and made smaller then, which smooths its edges."""


def draw(side: int) -> Image.Image:
    """Return the icon with a side of so many pixels, transparent around its corners."""
    scale = side * FINER / SIDE
    image = Image.new("RGBA", (side * FINER, side * FINER), (0, 0, 0, 0))
    pen = ImageDraw.Draw(image)
    pen.rounded_rectangle((0, 0, side * FINER - 1, side * FINER - 1), CORNER * scale, fill=GROUND)
    pen.polygon([(x * scale, y * scale) for x, y in FLASH], fill=SIGN)
    return image.resize((side, side), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    folder = Path(__file__).parent
    draw(256).save(folder / "icon.png", optimize=True)
    draw(512).save(folder / "icon@2x.png", optimize=True)
