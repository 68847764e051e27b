"""Codecs: token vectors to compact codes that are scored without decoding."""

from chamfer.codecs.codec import Codec, codec, load_codes
from chamfer.codecs.token_codes import TokenCodes

__all__ = ["Codec", "TokenCodes", "codec", "load_codes"]
