"""How files are damaged: bytes at random, the fields of headers, and the values of JSON, by what has gone wrong somewhere."""

import gzip
import json
import struct
from random import Random

NASTY: tuple[object, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        255,
        256,
        2**31,
        2**53,
        10**18,
        -(10**18),
        0.5,
        -0.0,
        1e-300,
        1e308,
        float("nan"),
        float("inf"),
    ),
    *(
        "",
        " ",
        "\0",
        "a\0b",
        "\ud800",
        "x" * 300,
        "x" * 20_000,
        "/" * 20_000,
        "a b " * 5000,
        "$\\frac{$",
        "$",
        "\\",
        "<script>",
    ),
    *(
        "../../etc/passwd",
        "/etc/passwd",
        "nan",
        "1e999",
        "-1",
        "1/0",
        "１",
        "²",
        "\u202e",
        "\x1b[31m",
        "\n",
        "Kidney (left)",
    ),
    *(
        [],
        {},
        [[]],
        [None],
        {"": None},
        {"a": {"a": {"a": []}}},
        [0] * 5000,
        [1, 2, 3],
        ["liver"],
        {"1": "liver"},
        "liver",
        "mean",
    ),
)
"""Values that readers have stumbled over. "１" and "²" are digits to str.isdigit or isdecimal, but not all to int."""


def damage(content: bytes, name: str, random: Random) -> bytes:
    """Return a file's content with something wrong, by the kind of file that its name tells of."""
    if name.endswith((".nii", ".nii.gz")):
        return _nifti(content, name, random)
    if name.endswith(".safetensors"):
        return _safetensors(content, random)
    if name.endswith(".jsonl"):
        lines = content.decode().splitlines()
        number = random.randrange(len(lines))
        lines[number] = json_text(lines[number].encode(), random).decode("utf-8", "replace").replace("\n", " ")
        return ("\n".join(lines) + "\n" * random.randrange(2)).encode()
    if name.endswith(".json"):
        return json_text(content, random)
    return some_bytes(content, random)


def some_bytes(content: bytes, random: Random) -> bytes:
    """Cut, repeat, exchange or overwrite bytes."""
    if not content:
        return random.randbytes(8)
    changed = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 8))):
        place = random.randrange(len(changed)) if changed else 0
        match random.randrange(6):
            case 0:
                del changed[place:]
            case 1:
                del changed[place : place + random.randrange(1, 64)]
            case 2:
                changed[place:place] = changed[place : place + random.randrange(1, 64)]
            case 3:
                changed[place : place + 4] = random.choice(
                    (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\0\0\xc0\x7f")
                )
            case 4:
                changed[place:place] = random.randbytes(random.randrange(1, 16))
            case _:
                changed[place : place + 1] = random.randbytes(1)
    return bytes(changed)


def json_text(content: bytes, random: Random) -> bytes:
    """Change a JSON file: mostly a value or a name of it, else its text."""
    chance = random.random()
    if chance < 0.75:
        value = json.loads(content)
        for _ in range(random.choice((1, 1, 1, 2, 4))):
            value = changed_value(value, random)
        return json.dumps(value).encode()
    if chance < 0.9:
        return some_bytes(content, random)
    text = content.decode()
    return random.choice(
        (
            b"[" * 10_000,
            b'{"labels":' * 10_000,
            b"[" * 10_000 + b"]" * 10_000,
            b"",
            b"null",
            b"\xef\xbb\xbf" + content,
            content.decode().encode("utf-16"),
            text.replace("1", "1" * 5000, 1).encode(),
            text.replace("1", "1" * 25, 1).encode(),
            text.replace("1", "1e999", 1).encode(),
            text.replace("{", '{"x": 1, "x": 2,', 1).encode(),
            text.replace('"', "'").encode(),
            text.replace("[", "[" * 200, 1).encode(),
        )
    )


def changed_value(value: object, random: Random) -> object:
    """Return a JSON value in which one place is another, gone, twice or named otherwise."""
    if isinstance(value, dict) and value and random.random() < 0.85:
        key = random.choice(list(value))
        match random.randrange(8):
            case 0:
                return {name: one for name, one in value.items() if name != key}
            case 1:
                other = random.choice([one for one in NASTY if isinstance(one, str)])
                return {other if name == key else name: one for name, one in value.items()}
            case 2:
                return value | {key: random.choice(NASTY)}
            case _:
                return value | {key: changed_value(value[key], random)}
    if isinstance(value, list) and value and random.random() < 0.85:
        place = random.randrange(len(value))
        match random.randrange(6):
            case 0:
                return value[:place] + value[place + 1 :]
            case 1:
                return [*value, value[place]]
            case _:
                return [*value[:place], changed_value(value[place], random), *value[place + 1 :]]
    return random.choice(NASTY)


def _nifti(content: bytes, name: str, random: Random) -> bytes:
    """Change a header's fields, the voxels or, of .nii.gz, the packed bytes."""
    packed = name.endswith(".gz")
    if packed and random.random() < 0.3:
        return some_bytes(content, random)
    plain = bytearray(gzip.decompress(content) if packed else content)
    order = "<" if plain[0] in (92, 28) else ">"
    for _ in range(random.choice((1, 1, 2, 3))):
        match random.randrange(5):
            case 0:  # dim, datatype, bitpix
                struct.pack_into(
                    order + "h",
                    plain,
                    random.choice(range(40, 76, 2)),
                    random.choice((-32768, -1, 0, 1, 2, 3, 4, 8, 16, 64, 512, 1024, 1536, 2304, 32767)),
                )
            case 1:  # pixdim, vox_offset, scl_slope, scl_inter, the quaternion and the sform
                places = [*range(76, 120, 4), *range(256, 328, 4)]
                struct.pack_into(
                    order + "f",
                    plain,
                    random.choice(places),
                    random.choice(
                        (0.0, -1.0, 1.0, 0.001, 1e-30, 3.0, 352.0, 1e4, 1e9, 1e38, -1e38, float("nan"), float("inf"))
                    ),
                )
            case 2:  # units, codes, magic
                plain[random.choice((39, 122, 123, 252, 254, *range(344, 352)))] = random.randrange(256)
            case 3:
                plain[random.randrange(min(len(plain), 352))] = random.randrange(256)
            case _:
                if random.random() < 0.3:
                    plain = bytearray(some_bytes(bytes(plain), random)) or plain
                    plain += bytes(max(0, 352 - len(plain)))
    return gzip.compress(bytes(plain), 1, mtime=0) if packed else bytes(plain)


def _safetensors(content: bytes, random: Random) -> bytes:
    """Change what viscera wrote into the header, the header itself, or bytes."""
    size = int.from_bytes(content[:8], "little")
    header, rest = json.loads(content[8 : 8 + size]), content[8 + size :]
    match random.randrange(4):
        case 0:
            return some_bytes(content[: 8 + size], random) + rest
        case 1:
            text = json_text(content[8 : 8 + size], random)
        case _:
            key = random.choice(list(header["__metadata__"]))
            inner = json_text(header["__metadata__"][key].encode(), random).decode("utf-8", "replace")
            text = json.dumps(header | {"__metadata__": {key: inner}}).encode()
    return len(text).to_bytes(8, "little") + text + rest
