"""What the generator cannot know by itself: how the two bodies that are not JSON are written."""

import os
from pathlib import Path

import schemathesis

CSR = Path(os.environ["CARDEA_CSR"]).read_bytes()


@schemathesis.serializer("application/pkcs10")
def pkcs10(ctx, value):
    """Generated text as it is, and every fourth time a request that a CA can sign."""
    text = str(value)
    return {"data": CSR if len(text) % 4 == 0 else text.encode("utf-8", "surrogatepass")}


@schemathesis.deserializer("application/cose-key-set")
def cose_key_set(ctx, response):
    """CBOR; what is in it is `tests/key_rotation.rs`'s to check."""
    return response.content.decode("latin-1")
