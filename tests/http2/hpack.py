"""HPACK (RFC 7541) by hand: an encoder that writes whatever a test asks for, valid or not, and a decoder that is strict."""

STATIC = [(None, None)] + [tuple(line.split("|")) for line in """\
:authority|
:method|GET
:method|POST
:path|/
:path|/index.html
:scheme|http
:scheme|https
:status|200
:status|204
:status|206
:status|304
:status|400
:status|404
:status|500
accept-charset|
accept-encoding|gzip, deflate
accept-language|
accept-ranges|
accept|
access-control-allow-origin|
age|
allow|
authorization|
cache-control|
content-disposition|
content-encoding|
content-language|
content-length|
content-location|
content-range|
content-type|
cookie|
date|
etag|
expect|
expires|
from|
host|
if-match|
if-modified-since|
if-none-match|
if-range|
if-unmodified-since|
last-modified|
link|
location|
max-forwards|
proxy-authenticate|
proxy-authorization|
range|
referer|
refresh|
retry-after|
server|
set-cookie|
strict-transport-security|
transfer-encoding|
user-agent|
vary|
via|
www-authenticate|""".split("\n")]

# Bits of each symbol's code (Appendix B). The code is canonical (§5.2): the lengths are the whole of it.
LENGTHS = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30]
EOS = 256


def _canonical():
    codes, code, last = {}, 0, 0
    for length, symbol in sorted((length, symbol) for symbol, length in enumerate(LENGTHS)):
        code <<= length - last
        codes[symbol] = (code, length)
        code, last = code + 1, length
    assert code == 1 << last  # Complete: every string of bits is the beginning of something.
    return codes


CODES = _canonical()
SYMBOLS = {(length, code): symbol for symbol, (code, length) in CODES.items()}


class HpackError(Exception):
    pass


# --- encoding

def integer(value, prefix, flags=0, padding=0):
    """§5.1; `padding` adds bytes that say nothing."""
    most = (1 << prefix) - 1
    if value < most:
        return bytes([flags | value])
    out, value = [flags | most], value - most
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    if padding:
        return bytes([*out, value | 128, *[128] * (padding - 1), 0])
    return bytes([*out, value])


def huffman(data):
    bits, count = 0, 0
    for byte in data:
        code, length = CODES[byte]
        bits, count = bits << length | code, count + length
    fill = -count % 8
    return (bits << fill | (1 << fill) - 1).to_bytes((count + fill) // 8, "big")


def string(data, coded=False):
    data = data.encode("latin-1") if isinstance(data, str) else data
    if coded:
        data = huffman(data)
    return integer(len(data), 7, 128 if coded else 0) + data


def indexed(index):
    return integer(index, 7, 128)


def literal(name, value, kind="without", coded=False):
    """`name`: a string, or an index of a name; `kind`: incremental, without or never (§6.2)."""
    prefix, flags = {"incremental": (6, 64), "without": (4, 0), "never": (4, 16)}[kind]
    head = integer(name, prefix, flags) if isinstance(name, int) else bytes([flags]) + string(name, coded)
    return head + string(value, coded)


def table_size(size):
    return integer(size, 5, 32)


def block(fields, coded=False):
    """Fields without any use of tables: whatever was sent before, this decodes."""
    return b"".join(literal(name, value, coded=coded) for name, value in fields)


# --- decoding

class Field(tuple):
    """(name, value), and how it was written."""
    kind = "indexed"


class Decoder:
    def __init__(self, limit=4096):
        self.limit = self.size = limit
        self.table = []

    def allow(self, limit):
        """A new SETTINGS_HEADER_TABLE_SIZE was acknowledged."""
        self.limit = limit

    def decode(self, data):
        fields, at = [], 0
        if self.size > self.limit and (not data or data[0] & 0xE0 != 32):
            raise HpackError("§4.2: the table must shrink first")
        while at < len(data):
            byte = data[at]
            if byte & 128:
                index, at = self._integer(data, at, 7)
                field = Field(self._entry(index))
            elif byte & 0xE0 == 32:
                size, at = self._integer(data, at, 5)
                if fields or size > self.limit:
                    raise HpackError(f"table size update to {size} behind {len(fields)} fields, limit {self.limit}")
                self.size = size
                self._evict(0)
                continue
            else:
                kind, prefix = ("incremental", 6) if byte & 64 else ("never" if byte & 16 else "without", 4)
                index, at = self._integer(data, at, prefix)
                if index:
                    name = self._entry(index)[0]
                else:
                    name, at = self._string(data, at)
                value, at = self._string(data, at)
                field = Field((name, value))
                field.kind = kind
                if kind == "incremental":
                    cost = len(name) + len(value) + 32
                    self._evict(cost)
                    if cost <= self.size:
                        self.table.insert(0, (name, value))
            fields.append(field)
        return fields

    def _evict(self, extra):
        while self.table and sum(len(name) + len(value) + 32 for name, value in self.table) + extra > self.size:
            self.table.pop()

    def _entry(self, index):
        if 0 < index < len(STATIC):
            return STATIC[index]
        if not 0 < index < len(STATIC) + len(self.table):
            raise HpackError(f"index {index} of {len(STATIC) + len(self.table) - 1}")
        return self.table[index - len(STATIC)]

    @staticmethod
    def _integer(data, at, prefix):
        value, at = data[at] & (1 << prefix) - 1, at + 1
        if value < (1 << prefix) - 1:
            return value, at
        shift = 0
        while True:
            if at >= len(data) or shift > 28:
                raise HpackError("an integer has no end")
            value, at, byte = value + ((data[at] & 127) << shift), at + 1, data[at]
            if byte < 128:
                return value, at
            shift += 7

    def _string(self, data, at):
        if at >= len(data):
            raise HpackError("a string is missing")
        coded = data[at] & 128
        length, at = self._integer(data, at, 7)
        if at + length > len(data):
            raise HpackError("a string is longer than the block")
        text = data[at:at + length]
        return (unhuffman(text) if coded else text).decode("latin-1"), at + length


def unhuffman(data):
    out, code, length = bytearray(), 0, 0
    for byte in data:
        for bit in range(7, -1, -1):
            code, length = code << 1 | byte >> bit & 1, length + 1
            symbol = SYMBOLS.get((length, code))
            if symbol == EOS:
                raise HpackError("EOS in a string")
            if symbol is not None:
                out.append(symbol)
                code = length = 0
    if length > 7 or code != (1 << length) - 1:
        raise HpackError("padding that is not the beginning of EOS")
    return bytes(out)
