"""An independent reader and forger of virtual keys, with the COSE and CWT library `cwt` from PyPI.

usage: forge.py INPUT.json    (see tests/local_link.rs). Prints one JSON line: what the car permitted and refused.
"""
import base64
import hashlib
import json
import socket
import struct
import sys

import cbor2
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cwt import COSE, COSEKey

AAD = b"cardea-key-v1"
UNLOCK_DOORS = 0
EDDSA = -8


def unb64(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class Car:
    """The car's local link: two bytes of length, then one CBOR array."""

    def __init__(self, address):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=10)

    def say(self, message):
        data = cbor2.dumps(message)
        self.socket.sendall(struct.pack(">H", len(data)) + data)
        head = self.socket.recv(2, socket.MSG_WAITALL)
        (length,) = struct.unpack(">H", head)
        return cbor2.loads(self.socket.recv(length, socket.MSG_WAITALL))


def use(address, token, holder, function=UNLOCK_DOORS, spoil=lambda signature: signature):
    car = Car(address)
    answer = car.say(["hello", token])
    if answer[0] != "nonce":
        return answer
    message = answer[1] + hashlib.sha256(token).digest() + bytes([function])
    return car.say(["use", function, spoil(holder.sign(message))])


def signed(claims, key, kid, algorithm=EDDSA, aad=AAD):
    """A COSE_Sign1 by the library, as ours are made."""
    return COSE.new().encode_and_sign(cbor2.dumps(claims), key, protected={1: algorithm, 4: kid}, external_aad=aad)


def public_bytes(private):
    return private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def cose_key(private, kid):
    return COSEKey.new({1: 1, 2: kid, 3: EDDSA, -1: 6, -2: public_bytes(private), -4: private.private_bytes_raw()})


def main():
    with open(sys.argv[1]) as file:
        given = json.load(file)
    token, car = unb64(given["token"]), given["car"]
    holder = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(given["seed"]))

    # 1. The library verifies our token with our published key, and the claims say what the contract says.
    (jwk,) = json.loads(given["jwks"])["keys"]
    fleet = COSEKey.new({1: 1, 2: unb64(jwk["kid"]), 3: EDDSA, -1: 6, -2: unb64(jwk["x"])})
    claims = cbor2.loads(COSE.new().decode(token, fleet, external_aad=AAD))
    assert claims[3] == given["vehicle_id"], claims
    assert claims[7].hex() == given["key_id"].replace("-", ""), claims
    assert claims[5] < claims[4], claims
    confirmed = claims[8][1]
    assert confirmed[1] == 1 and confirmed[-1] == 6, confirmed
    assert confirmed[-2] == public_bytes(holder), confirmed
    assert claims[-70001] & 1 and not claims[-70001] >> 4 & 1, "cabin opens doors and does not drive"
    permitted = []
    answer = use(car, token, holder)
    assert answer == ["permitted"], answer
    permitted.append("unlock_doors")

    # 2. Forgeries. Each is refused, before a nonce or after it, and none is ever permitted.
    own = Ed25519PrivateKey.generate()
    kid = unb64(jwk["kid"])
    envelope = cbor2.loads(token).value
    protected, _, payload, signature = envelope

    def resigned(change):
        changed = dict(claims)
        change(changed)
        return signed(changed, cose_key(own, kid), kid)

    def envelope_of(protected=protected, unprotected=None, payload=payload, signature=signature, tag=18):
        return cbor2.dumps(cbor2.CBORTag(tag, [protected, unprotected or {}, payload, signature]))

    more = dict(claims)
    more[-70001] = (1 << 13) - 1
    forgeries = {
        "signed by a stranger under the fleet's key id": resigned(lambda c: None),
        "signed by a stranger under a key id of its own": signed(claims, cose_key(own, b"stranger"), b"stranger"),
        "signed by the holder itself": signed(claims, cose_key(holder, kid), kid),
        "more permissions under the old signature": envelope_of(payload=cbor2.dumps(more)),
        "a later end under the old signature": envelope_of(payload=cbor2.dumps({**claims, 4: claims[4] + 86_400})),
        "another holder under the old signature": envelope_of(payload=cbor2.dumps(
            {**claims, 8: {1: {1: 1, -1: 6, -2: public_bytes(own)}}})),
        "one bit of the signature flipped": envelope_of(signature=bytes([signature[0] ^ 1]) + signature[1:]),
        "an empty signature": envelope_of(signature=b""),
        "no algorithm": envelope_of(protected=cbor2.dumps({4: kid})),
        "algorithm none": envelope_of(protected=cbor2.dumps({1: 0, 4: kid})),
        "an unprotected key id": envelope_of(protected=cbor2.dumps({1: EDDSA}), unprotected={4: kid}),
        "something in the unprotected header": envelope_of(unprotected={99: b"x"}),
        "a COSE_Mac0 instead": envelope_of(tag=17),
        "bytes behind the end": token + b"\x00",
        "cut short": token[:-1],
        "another car's token": unb64(given["other_car"]),
        "signed for another purpose": signed(claims, cose_key(own, kid), kid, aad=b""),
        "a duplicate claim": envelope_of(payload=b"\xb9\x00\x02" + cbor2.dumps(4) + cbor2.dumps(claims[4] + 1)
                                         + cbor2.dumps(4) + cbor2.dumps(claims[4])),
        "larger than any token": token + b"\x00" * 1024,
        "nothing": b"",
    }
    refused = {}
    for name, forged in forgeries.items():
        assert forged != token, name
        for who in (holder, own):
            answer = use(car, forged, who)
            assert answer[0] == "refused", (name, answer)
            refused[name] = answer[1]

    # 3. The true token in wrong hands, and proofs that are not the holder's for this nonce and function.
    refused["the true token in a stranger's hands"] = use(car, token, own)[1]
    refused["a spoilt proof"] = use(car, token, holder, spoil=lambda s: bytes([s[0] ^ 1]) + s[1:])[1]
    refused["an empty proof"] = use(car, token, holder, spoil=lambda s: b"")[1]
    refused["a function the key prohibits"] = use(car, token, holder, function=4)[1]
    link = Car(car)
    nonce = link.say(["hello", token])[1]
    proof = holder.sign(nonce + hashlib.sha256(token).digest() + bytes([UNLOCK_DOORS]))
    assert link.say(["use", UNLOCK_DOORS, proof]) == ["permitted"]
    permitted.append("unlock_doors")
    refused["the same proof again"] = link.say(["use", UNLOCK_DOORS, proof])[1]
    link.say(["hello", token])
    refused["an earlier nonce's proof"] = link.say(["use", UNLOCK_DOORS, proof])[1]
    print(json.dumps({"permitted": permitted, "refused": refused}))


main()
