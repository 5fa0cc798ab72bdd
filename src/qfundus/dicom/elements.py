"""The elements of a DICOM file, read from its bytes and written back (PS3.5 chapter 7, PS3.10 chapter 7).

Values stay where they lie in the file until someone asks for them: a header of a hundred elements costs a hundred
small objects, whatever the size of the pixels behind it.
"""

import struct
import zlib
from dataclasses import dataclass
from functools import cached_property
from mmap import mmap

from pydicom._uid_dict import UID_dictionary

from qfundus.dicom.encoding import DEFLATED, EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE, UNDEFINED, Buffer, Syntax
from qfundus.dicom.vrs import DICTIONARY_VRS, LONG_VRS, VRS
from qfundus.errors import Discard

PIXEL_DATA = 0x7FE00010
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_DEEPEST = 32  # sequences within sequences; real files stay under ten
_MOST_ELEMENTS = 200_000
_MOST_INFLATED, _INFLATED_BY = 1 << 26, 100  # bytes beside so many times the file's own; beyond is a bomb
_IMPLICIT_LITTLE = Syntax(explicit=False, order="<")


class Element:
    """One data element. `start` and `length` say where its value lies; a sequence has `items`, pixels `fragments`."""

    __slots__ = ("fragments", "head", "items", "length", "start", "tag", "vr")

    def __init__(self, tag: int, vr: str, head: int, start: int, length: int) -> None:
        self.head = head  # where it starts, -1 where it is not coded like the file around it
        self.tag = tag
        self.vr = vr
        self.start = start
        self.length = length
        self.items: list[list[Element]] | None = None
        self.fragments: list[tuple[int, int]] | None = None


@dataclass(frozen=True)
class DicomFile:
    """A parsed file: `data` holds the bytes that the elements point into."""

    data: Buffer
    syntax: Syntax
    transfer_syntax: str
    elements: list[Element]
    trailing: int  # bytes behind the last element that belong to none

    def find(self, tag: int) -> Element | None:
        """Return the first top-level element of a tag."""
        return self._first.get(tag)

    @cached_property
    def _first(self) -> dict[int, Element]:
        return {element.tag: element for element in reversed(self.elements)}

    def value(self, element: Element) -> bytes:
        """Return the bytes of a value."""
        return bytes(self.data[element.start : element.start + element.length])

    def text(self, tag: int) -> str:
        """Return a top-level value as ASCII text without padding, '' if it is absent."""
        element = self.find(tag)
        return "" if element is None else self.value(element).decode("ascii", "replace").strip(" \0")


def parse_file(data: bytes | mmap) -> DicomFile:
    """Parse a DICOM Part 10 file, or a bare data set that lacks its preamble and file meta information.

    Raises:
        Discard: if it is not DICOM, ends within an element, nests too deep, inflates beyond all measure, or has a
            transfer syntax that DICOM does not define.
    """
    view = memoryview(data)
    start, transfer_syntax = _read_meta(view)
    if transfer_syntax == DEFLATED:
        view, start = memoryview(_inflate(view[start:])), 0
    syntax = _syntax_of(transfer_syntax)
    if not transfer_syntax:
        syntax, transfer_syntax = _guess_syntax(view, start)
    parser = _Parser(view, syntax)
    elements, end = parser.top_level(start)
    return DicomFile(view, syntax, transfer_syntax, elements, len(view) - end)


def _seen_as(head: bytes) -> str:
    """Say what a plain picture's first bytes give away: its name's ending may say nothing of it."""
    if head[:4] == b"RIFF" and head[8:] == b"WEBP":
        return "; it is a WEBP picture: save it as .png"
    known = {
        b"\xff\xd8\xff": "JPEG",
        b"\x89PNG": "PNG",
        b"GIF8": "GIF",
        b"BM": "BMP",
        b"II*\0": "TIFF",
        b"MM\0*": "TIFF",
    }
    kind = next((name for mark, name in known.items() if head.startswith(mark)), "")
    if kind in {"JPEG", "PNG", "TIFF"}:
        return f"; it is a {kind} picture: let its name end so"
    return f"; it is a {kind} picture: save it as .png" if kind else ""


def _read_meta(view: memoryview) -> tuple[int, str]:
    """Return where the data set starts and its transfer syntax ('' if the file does not say)."""
    if bytes(view[128:132]) == b"DICM":
        position = 132
    elif bytes(view[:2]) in {b"\x02\x00", b"\x08\x00", b"\x00\x08"}:
        position = 0
    else:
        raise Discard("not_dicom", f"The DICM mark is missing{_seen_as(bytes(view[:12]))}.")
    parser, transfer_syntax = _Parser(view, Syntax(explicit=True, order="<")), ""
    while bytes(view[position : position + 2]) == b"\x02\x00":
        element = parser.element(position, len(view), 0)
        position = parser.position
        if element.tag == 0x00020010:
            value = bytes(view[element.start : element.start + element.length])
            transfer_syntax = value.decode("ascii", "replace").strip(" \0")
    return position, transfer_syntax


def _syntax_of(transfer_syntax: str) -> Syntax:
    if transfer_syntax and (
        transfer_syntax not in UID_dictionary or UID_dictionary[transfer_syntax][1] != "Transfer Syntax"
    ):
        raise Discard("unsupported_transfer_syntax", "DICOM does not define the file's transfer syntax.")
    return Syntax(transfer_syntax != IMPLICIT_LITTLE, ">" if transfer_syntax == EXPLICIT_BIG else "<")


def _guess_syntax(view: memoryview, start: int) -> tuple[Syntax, str]:
    # A file without meta information: an explicit VR shows as two letters behind the first tag.
    if bytes(view[start + 4 : start + 6]) in VRS:
        big = view[start] == 0
        return Syntax(explicit=True, order=">" if big else "<"), EXPLICIT_BIG if big else EXPLICIT_LITTLE
    return Syntax(explicit=False, order="<"), IMPLICIT_LITTLE


def _inflate(deflated: memoryview) -> bytes:
    inflater, most = zlib.decompressobj(-zlib.MAX_WBITS), _MOST_INFLATED + _INFLATED_BY * len(deflated)
    try:
        inflated = inflater.decompress(deflated, most)
    except zlib.error:
        raise Discard("truncated", "The deflated data set is broken.") from None
    if inflater.unconsumed_tail:
        raise Discard("too_large", "The data set inflates to more than the limit.")
    if not inflater.eof:
        raise Discard("truncated", "The deflated data set ends early.")
    return inflated


class _Parser:
    """Reads elements one after the other; `position` is where the next one starts."""

    def __init__(self, view: memoryview, syntax: Syntax) -> None:
        self.view = view
        self.position = 0
        self.left = _MOST_ELEMENTS
        self.as_file = True
        self._use(syntax)

    def _use(self, syntax: Syntax) -> None:
        self.syntax = syntax
        self.explicit = syntax.explicit
        self.short = struct.Struct(f"{syntax.order}HH2sH").unpack_from
        self.implicit = struct.Struct(f"{syntax.order}HHI").unpack_from
        self.long = struct.Struct(f"{syntax.order}I").unpack_from

    def top_level(self, position: int) -> tuple[list[Element], int]:
        """Read a whole data set; what cannot be read behind the pixels is padding, and cut."""
        elements: list[Element] = []
        end = len(self.view)
        has_pixels = False
        while position < end:
            try:
                element = self.element(position, end, 0)
            except Discard:
                if has_pixels:
                    return elements, position
                raise
            if has_pixels and element.tag <= PIXEL_DATA:
                return elements, position
            has_pixels = has_pixels or element.tag == PIXEL_DATA
            elements.append(element)
            position = self.position
        return elements, position

    def element(self, position: int, end: int, depth: int) -> Element:
        """Read one element that starts at `position`, its items included."""
        self.left -= 1
        if not self.left:
            raise Discard("unreadable_header", f"There are more than {_MOST_ELEMENTS} elements.")
        tag, vr, start, length = self._header(position, end)
        element = Element(tag, vr, position if self.as_file else -1, start, length)
        if length == UNDEFINED:
            self._undefined(element, end, depth)
        else:
            if start + length > end:
                raise Discard("truncated", "An element is longer than what is left of the file.")
            if vr == "SQ":
                element.items = self._items(start, start + length, depth, delimited=False)
            elif vr == "UN" and length and DICTIONARY_VRS.get(tag) == "SQ":
                self._in_unknown(element, start + length, depth, delimited=False)
            self.position = start + length
        return element

    def _header(self, position: int, end: int) -> tuple[int, str, int, int]:
        if position + 8 > end:
            raise Discard("truncated", "The file ends within an element's head.")
        if not self.explicit:
            group, number, length = self.implicit(self.view, position)
            tag = group << 16 | number
            vr = DICTIONARY_VRS.get(tag, "UN")
            return tag, vr if not (length == UNDEFINED and vr == "UN") else "SQ", position + 8, length
        group, number, code, length = self.short(self.view, position)
        tag = group << 16 | number
        if group == 0xFFFE:
            raise Discard("truncated", "An item appears outside a sequence.")
        vr = VRS.get(code)
        if vr is None:
            raise Discard("unreadable_header", "An element has a VR that DICOM does not define.")
        if vr not in LONG_VRS:
            return tag, vr, position + 8, length
        if position + 12 > end:
            raise Discard("truncated", "The file ends within an element's head.")
        return tag, vr, position + 12, self.long(self.view, position + 8)[0]

    def _undefined(self, element: Element, end: int, depth: int) -> None:
        if element.tag == PIXEL_DATA and depth == 0:
            element.fragments = self._fragments(element.start, end)
        elif element.vr == "UN" and self.explicit:
            self._in_unknown(element, end, depth, delimited=True)
        elif element.vr == "SQ":
            element.items = self._items(element.start, end, depth, delimited=True)
        else:
            raise Discard("unreadable_header", "An element other than a sequence has no length.")
        element.length = self.position - element.start

    def _in_unknown(self, element: Element, end: int, depth: int, *, delimited: bool) -> None:
        """Read a sequence whose VR is unknown: it is coded implicit and little endian (PS3.5 6.2.2 note 2)."""
        outer, self.as_file = self.syntax, False
        self._use(_IMPLICIT_LITTLE)
        try:
            items = self._items(element.start, end, depth, delimited=delimited)
        except Discard:
            if delimited:
                raise
            return  # bytes that do not form a sequence: the element stays of unknown VR, and goes
        finally:
            self._use(outer)
            self.as_file = True
        # In a big-endian file its values would have to be turned round: nothing real does that, so they go.
        element.vr, element.items = "SQ", items if outer.order == "<" else []

    def _items(self, position: int, end: int, depth: int, *, delimited: bool) -> list[list[Element]]:
        if depth >= _DEEPEST:
            raise Discard("unreadable_header", f"Sequences are nested deeper than {_DEEPEST}.")
        items: list[list[Element]] = []
        while position < end:
            tag, length = self._item_head(position, end)
            position += 8
            if tag == _SEQUENCE_END:
                self.position = position
                return items
            if tag != _ITEM:
                raise Discard("unreadable_header", "A sequence holds something other than items.")
            item, position = self._item(position, end, length, depth)
            items.append(item)
        if delimited:
            raise Discard("truncated", "A sequence does not end.")
        self.position = position
        return items

    def _item_head(self, position: int, end: int) -> tuple[int, int]:
        if position + 8 > end:
            raise Discard("truncated", "The file ends within an item's head.")
        group, number, length = self.implicit(self.view, position)
        return group << 16 | number, length

    def _item(self, position: int, end: int, length: int, depth: int) -> tuple[list[Element], int]:
        elements: list[Element] = []
        until = end if length == UNDEFINED else position + length
        if until > end:
            raise Discard("truncated", "An item is longer than its sequence.")
        while position < until:
            if length == UNDEFINED and self._item_head(position, until)[0] == _ITEM_END:
                return elements, position + 8
            elements.append(self.element(position, until, depth + 1))
            position = self.position
        if length == UNDEFINED:
            raise Discard("truncated", "An item does not end.")
        return elements, position

    def _fragments(self, position: int, end: int) -> list[tuple[int, int]]:
        """Read where the fragments of encapsulated pixels lie (PS3.5 A.4); the first is the basic offset table."""
        fragments: list[tuple[int, int]] = []
        while True:
            tag, length = self._item_head(position, end)
            position += 8
            if tag == _SEQUENCE_END:
                self.position = position
                return fragments
            if tag != _ITEM or position + length > end:
                raise Discard("truncated", "The fragments of the pixel data are broken.")
            fragments.append((position, length))
            position += length
