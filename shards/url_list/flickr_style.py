"""Caffe's Flickr Style list: its URL, its hash and the names of its 20 classes."""

FLICKR_STYLE = "flickr_style"
FLICKR_STYLE_URL = (
    "https://raw.githubusercontent.com/BVLC/caffe/master/examples/finetune_flickr_style/flickr_style.csv.gz"
)
FLICKR_STYLE_SHA256 = "bf1589f39a3a45b7b5a3a2fbe3c29123a31756f9b438b3989e64e5c5467591c4"
FLICKR_STYLE_CLASSES = (
    "Detailed", "Pastel", "Melancholy", "Noir", "HDR", "Vintage", "Long Exposure", "Horror", "Sunny", "Bright", "Hazy",
    "Bokeh", "Serene", "Texture", "Ethereal", "Macro", "Depth of Field", "Geometric Composition", "Minimal", "Romantic",
)  # fmt: skip
