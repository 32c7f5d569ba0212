"""The body of an HTTP answer, read without trusting its size."""

from __future__ import annotations

import zlib

import httpx

MAX_BYTES = 8 << 20
"""More is not read of an answer, counted after decompression. The longest reply that a model writes takes a tenth."""
ACCEPTED = "gzip"
"""The one encoding that is asked for. Its decoder here stops at a limit; httpx's own produce whatever is sent."""


class BodyError(Exception):
    """An answer's body cannot be used. The message says why."""


async def read_body(response: httpx.Response, *, most: int = MAX_BYTES) -> tuple[bytes, bool]:
    """The first ``most`` bytes of the body, and whether that is all of it.

    Raises BodyError if it cannot be decompressed, and what httpx raises.
    """
    encoding = "" if response.is_stream_consumed else response.headers.pop("Content-Encoding", "").strip().lower()
    if encoding not in ("", "identity", "gzip", "x-gzip", "deflate"):
        raise BodyError(f"the answer is encoded as {encoding[:40]!r}, and only {ACCEPTED} was asked for")
    unpack = None if encoding in ("", "identity") else zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    body = bytearray()
    async for piece in response.aiter_bytes():
        try:
            body += piece if unpack is None else unpack.decompress(piece, most + 1 - len(body))
        except zlib.error as error:
            raise BodyError(f"the answer cannot be decompressed: {error}") from None
        if len(body) > most:
            return bytes(body[:most]), False
    if unpack is not None and body and not unpack.eof:
        raise BodyError("the answer cannot be decompressed: it is cut off")
    return bytes(body), True
