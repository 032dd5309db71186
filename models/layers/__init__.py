"""Small layers shared by all mixers and blocks; what timm has is taken from timm."""
