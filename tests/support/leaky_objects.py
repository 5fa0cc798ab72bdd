"""Ways in which identity hides in a DICOM file, each a function that plants the mark and returns the file's bytes."""

import io
import struct

import numpy as np
import pydicom
from PIL import Image, ImageCms
from poison import MARK
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from qfundus.hospital.wrap import to_bytes

BIRTH = "19570312"
RECORD = "48271939"


def _with(**values):
    def plant(eye):
        for keyword, value in values.items():
            setattr(eye, keyword, value)
        return to_bytes(eye)

    return plant


def private_block(eye):
    eye.private_block(0x0099, MARK, create=True).add_new(0x77, "UT", MARK)
    return to_bytes(eye)


def private_block_with_a_forged_creator(eye):
    block = eye.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    block.add_new(0x0C, "LO", MARK)
    block.add_new(0x0D, "CS", MARK)
    block.add_new(0x77, "UT", MARK)
    return to_bytes(eye)


def sequences_ten_deep(eye):
    item = Dataset()
    item.PatientName = item.PatientComments = MARK
    for _ in range(10):
        outer = Dataset()
        outer.AnatomicRegionModifierSequence = [item]
        item = outer
    eye.AnatomicRegionSequence = [item]
    return to_bytes(eye)


def _named_item():
    item = Dataset()
    item.PatientID = item.PatientName = item.ScheduledProcedureStepDescription = MARK
    return item


def preamble(eye):
    eye.preamble = MARK.encode().ljust(128, b"\0")
    return to_bytes(eye)


def padding_after_the_last_element(eye):
    return to_bytes(eye) + MARK.encode() + b"\0"


def data_set_trailing_padding(eye):
    eye.add_new(0xFFFCFFFC, "OB", MARK.encode() + b"\0")
    return to_bytes(eye)


def group_0002(eye):
    eye.file_meta.SourceApplicationEntityTitle = eye.file_meta.SendingApplicationEntityTitle = MARK
    eye.file_meta.PrivateInformationCreatorUID = "1.2.826.0.1.3680043.10.424242.9"
    eye.file_meta.PrivateInformation = MARK.encode() + b"\0"
    return to_bytes(eye)


def uids_that_embed_a_record_number(eye):
    eye.PatientID = RECORD
    eye.StudyInstanceUID = f"1.2.826.0.1.3680043.10.{RECORD}.{BIRTH}"
    eye.SOPInstanceUID = eye.file_meta.MediaStorageSOPInstanceUID = f"1.2.826.0.1.{RECORD}.1"
    eye.SeriesInstanceUID = f"1.2.826.0.1.3680043.10.{RECORD}.2"
    eye.FrameOfReferenceUID = f"1.2.826.0.1.3680043.10.{BIRTH}.4"
    eye.ReferencedImageSequence = [Dataset()]
    eye.ReferencedImageSequence[0].ReferencedSOPInstanceUID = f"1.2.{RECORD}.7"
    return to_bytes(eye)


def birth_date_in_comments_in_three_formats(eye):
    eye.PatientBirthDate = BIRTH
    eye.ImageComments = "born 12.03.1957, that is 1957-03-12 or March 12, 1957"
    eye.StudyDescription = "Fundus colour 12/3/1957 macula"
    eye.DerivationDescription = "12 Mar 1957"
    return to_bytes(eye)


def _icc(eye, description):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    text = b"text\0\0\0\0" + description.encode() + b"\0"
    tags = struct.unpack_from(">I", profile, 128)[0]
    directory = profile[132 : 132 + 12 * tags]
    shifted = b"".join(
        name + struct.pack(">II", offset + 12, size) for name, offset, size in struct.iter_unpack(">4sII", directory)
    )
    body = profile[132 + 12 * tags :]
    entry = b"dmnd" + struct.pack(">II", 132 + 12 * (tags + 1) + len(body), len(text))
    whole = profile[4:128] + struct.pack(">I", tags + 1) + shifted + entry + body + text
    return struct.pack(">I", len(whole) + 4) + whole + b"\0" * (len(whole) % 2)


def icc_profile_description(eye):
    eye.ICCProfile = _icc(eye, MARK)
    return to_bytes(eye)


def _jpeg(eye, change):
    """Put segments into the JPEG stream behind its start."""
    frame = next(iter(generate_frames(eye.PixelData, number_of_frames=1)))
    eye.PixelData = encapsulate([frame[:2] + change(frame) + frame[2:]])
    eye["PixelData"].is_undefined_length = True
    return to_bytes(eye)


def _segment(marker, body):
    return bytes((0xFF, marker)) + (len(body) + 2).to_bytes(2, "big") + body


def jpeg_comment(eye):
    return _jpeg(eye, lambda _: _segment(0xFE, MARK.encode()))


def _exif(**with_):
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x010E] = exif[0x013B] = exif[0xA430] = MARK
    exif.get_ifd(0x8825)[29] = MARK
    Image.new("RGB", (8, 8)).save(stream, "JPEG", exif=exif)
    data = stream.getvalue()
    start = data.index(b"\xff\xe1")
    return data[start : start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")]


def exif_gps_and_owner(eye):
    return _jpeg(eye, lambda _: _exif())


def thumbnail_in_exif(eye):
    return _jpeg(
        eye, lambda frame: _segment(0xE1, b"Exif\0\0" + frame[:2] + _segment(0xFE, MARK.encode()) + frame[2:9000])
    )


def xmp(eye):
    return _jpeg(eye, lambda _: _segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + MARK.encode()))


def bytes_behind_the_end_of_the_jpeg(eye):
    frame = next(iter(generate_frames(eye.PixelData, number_of_frames=1)))
    eye.PixelData = encapsulate([frame.rstrip(b"\0") + MARK.encode() + b"\0"])
    eye["PixelData"].is_undefined_length = True
    return to_bytes(eye)


def icon_image_sequence(eye):
    icon = Dataset()
    icon.Rows = icon.Columns = 8
    icon.SamplesPerPixel, icon.BitsAllocated, icon.PhotometricInterpretation = 1, 8, "MONOCHROME2"
    icon.PixelData = MARK.encode().ljust(64, b"\0")
    eye.IconImageSequence = [icon]
    return to_bytes(eye)


def overlay_data(eye):
    eye.add_new(0x60000010, "US", 8)
    eye.add_new(0x60001500, "LO", MARK)
    eye.add_new(0x60003000, "OW", MARK.encode() + b"\0")
    return to_bytes(eye)


def curve_data(eye):
    eye.add_new(0x50000005, "US", 1)
    eye.add_new(0x50003000, "OW", MARK.encode() + b"\0")
    return to_bytes(eye)


def encapsulated_pdf_beside_the_picture(eye):
    eye.EncapsulatedDocument = b"%PDF " + MARK.encode()
    eye.DocumentTitle = MARK
    return to_bytes(eye)


def structured_report_text(eye):
    item = Dataset()
    item.ValueType, item.TextValue, item.PersonName = "TEXT", f"Seen by {MARK}", MARK
    eye.ContentSequence = [item]
    return to_bytes(eye)


def names_in_gb18030(eye):
    eye.SpecificCharacterSet = "GB18030"
    eye.PatientName = f"Wang^XiaoDong={MARK}^王小东"
    eye.ImageComments = "王小东 fundus"
    eye.SeriesDescription = "王小东"
    eye.Manufacturer = "王小东"
    return to_bytes(eye)


def names_in_iso_2022(eye):
    eye.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
    eye.PatientName = f"Yamada^Tarou=山田^太郎={MARK}"
    eye.SeriesDescription = "山田"
    eye.Manufacturer = "Yamada Optics"
    return to_bytes(eye)


def retired_attributes(eye):
    eye.add_new(0x00104000, "LT", MARK)
    eye.add_new(0x00324000, "LT", MARK)
    eye.add_new(0x00380300, "LO", MARK)
    eye.add_new(0x40080042, "LO", MARK)
    return to_bytes(eye)


def unknown_attribute(eye):
    eye.add_new(0x00121234, "LO", MARK)
    return to_bytes(eye)


def unknown_vr_holding_a_sequence(eye):
    name = MARK.encode() + b"\0"
    inner = struct.pack("<HHI", 0x0010, 0x0010, len(name)) + name
    inner += struct.pack("<HHI", 0x0010, 0x4000, len(name)) + name
    items = struct.pack("<HHI", 0xFFFE, 0xE000, len(inner)) + inner
    data = to_bytes(eye)
    place = data.index(struct.pack("<HH", 0x0008, 0x2218))
    unknown = struct.pack("<HH2sHI", 0x0008, 0x1140, b"UN", 0, len(items)) + items
    delimited = (
        struct.pack("<HH2sHI", 0x0008, 0x1250, b"UN", 0, 0xFFFFFFFF) + items + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    )
    return data[:place] + unknown + delimited + data[place:]


def undefined_length_items(eye):
    eye.AnatomicRegionSequence[0].PatientName = MARK
    eye["AnatomicRegionSequence"].is_undefined_length = True
    eye.AnatomicRegionSequence[0].is_undefined_length_sequence_item = True
    return to_bytes(eye)


def duplicate_tags(eye):
    data = to_bytes(eye)
    place = data.index(struct.pack("<HH2s", 0x0010, 0x0020, b"LO"))
    twice = struct.pack("<HH2sH", 0x0010, 0x0010, b"PN", 10) + MARK.encode() + b"\0"
    manufacturer = struct.pack("<HH2sH", 0x0008, 0x0070, b"LO", 10) + MARK.encode() + b"\0"
    return data[:place] + twice + manufacturer + data[place:]


def _in_syntax(syntax):
    def plant(eye):
        eye.PatientComments = eye.PatientName = MARK
        eye.AnatomicRegionSequence[0].PatientComments = MARK
        eye.decompress()
        eye.file_meta.TransferSyntaxUID = syntax
        buffer = io.BytesIO()
        from pydicom import dcmwrite

        little, implicit = syntax != ExplicitVRBigEndian, syntax == ImplicitVRLittleEndian
        dcmwrite(buffer, eye, enforce_file_format=True, implicit_vr=implicit, little_endian=little)
        return buffer.getvalue()

    return plant


def request_attributes_sequence(eye):
    eye.RequestAttributesSequence = [_named_item()]
    return to_bytes(eye)


def hl7_identifiers(eye):
    item = Dataset()
    item.LocalNamespaceEntityID, item.UniversalEntityID = MARK, MARK
    eye.IssuerOfPatientID = MARK
    eye.IssuerOfPatientIDQualifiersSequence = [item]
    eye.add_new(0x0040E001, "ST", MARK)
    return to_bytes(eye)


def a_vr_that_is_not_the_attributes_own(eye):
    data = to_bytes(eye)
    place = data.index(struct.pack("<HH2s", 0x0028, 0x0010, b"US"))
    wrong = struct.pack("<HH2sH", 0x0028, 0x0009, b"LO", 10) + MARK.encode() + b"\0"
    return data[:place] + wrong + data[place:]


def _raw_before(data, tag, vr, value):
    """Write an element of any VR at its place in an explicit little-endian file."""
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    head += (
        struct.pack("<HI", 0, len(value))
        if vr in {b"OB", b"OW", b"UN", b"UT", b"UR"}
        else struct.pack("<H", len(value))
    )
    following = next(e.tag for e in pydicom.dcmread(io.BytesIO(data)) if e.tag > tag)
    start = data.index(struct.pack("<HH", following.group, following.element), 300)
    return data[:start] + head + value + data[start:]


def kept_attributes_of_another_vr(eye):
    del eye.PatientSex
    return _raw_before(to_bytes(eye), 0x00100040, b"LO", MARK.encode() + b" ")


def text_in_binary_numbers(eye):
    value = MARK.encode().ljust(12)
    data = _raw_before(to_bytes(eye), 0x00280009, b"AT", value)
    data = _raw_before(data, 0x00186050, b"UL", value)
    return _raw_before(data, 0x00181310, b"US", value)


def free_text_that_no_table_names(eye):
    eye.LensStatusDescription = f"operated by surgeon {MARK}, 15 April"
    eye.SystemStatusComment = f"15/04 {MARK} Street 221"
    eye.SubstanceAdministrationNotes = f"given to {MARK}"
    eye.PlacerOrderNumberProcedure = MARK
    return to_bytes(eye)


def words_in_coded_attributes(eye):
    eye.PatientName = f"{MARK}^Jane"
    eye.ImageType = ["ORIGINAL", "PRIMARY", MARK, "COLOR"]
    eye.PupilDilated = MARK
    eye.AnatomicRegionSequence[0].CodeMeaning = MARK
    eye.AnatomicRegionSequence[0].CodeValue = MARK
    return to_bytes(eye)


def hidden_bits(eye):
    """Write the mark into the four unused high bits of 16-bit pixels."""
    eye.decompress()
    text = np.frombuffer(MARK.encode() * 400, np.uint8)
    nibbles = np.stack((text >> 4, text & 15), axis=1).ravel().astype(np.uint16)
    pixels = np.full((64, 64), 100, np.uint16)
    pixels.ravel()[: nibbles.size] |= nibbles[: pixels.size] << 12
    eye.Rows = eye.Columns = 64
    eye.SamplesPerPixel, eye.PhotometricInterpretation = 1, "MONOCHROME2"
    eye.BitsAllocated, eye.BitsStored, eye.HighBit = 16, 12, 11
    eye.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    del eye.PlanarConfiguration
    eye.PixelData = pixels.tobytes()
    eye["PixelData"].VR = "OW"
    return to_bytes(eye)


LEAKS = {
    "private blocks": private_block,
    "private blocks with a forged creator": private_block_with_a_forged_creator,
    "sequences ten deep": sequences_ten_deep,
    "OtherPatientIDsSequence": _with(OtherPatientIDsSequence=Sequence([_named_item()])),
    "preamble": preamble,
    "padding after the last element": padding_after_the_last_element,
    "data set trailing padding": data_set_trailing_padding,
    "group 0002": group_0002,
    "StudyID": _with(StudyID=MARK),
    "AccessionNumber": _with(AccessionNumber=MARK),
    "free-text comments": _with(ImageComments=MARK, StudyComments=MARK, PatientComments=MARK),
    "device serials": _with(DeviceSerialNumber=MARK, DetectorID=MARK, GantryID=MARK, PlateID=MARK),
    "station names": _with(StationName=MARK, PerformedStationName=MARK, StationAETitle=MARK),
    "ICC profile description": icc_profile_description,
    "JPEG comment": jpeg_comment,
    "EXIF GPS and owner": exif_gps_and_owner,
    "a thumbnail in EXIF": thumbnail_in_exif,
    "XMP": xmp,
    "bytes behind the end of the JPEG": bytes_behind_the_end_of_the_jpeg,
    "IconImageSequence": icon_image_sequence,
    "overlay data": overlay_data,
    "curve data": curve_data,
    "encapsulated PDF": encapsulated_pdf_beside_the_picture,
    "structured report text": structured_report_text,
    "PN in GB18030": names_in_gb18030,
    "PN in ISO 2022": names_in_iso_2022,
    "retired attributes": retired_attributes,
    "unknown attributes": unknown_attribute,
    "UN holding a sequence": unknown_vr_holding_a_sequence,
    "undefined-length items": undefined_length_items,
    "duplicate tags": duplicate_tags,
    "implicit VR": _in_syntax(ImplicitVRLittleEndian),
    "big-endian": _in_syntax(ExplicitVRBigEndian),
    "deflated": _in_syntax(DeflatedExplicitVRLittleEndian),
    "RequestAttributesSequence": request_attributes_sequence,
    "HL7 identifiers": hl7_identifiers,
    "a VR that is not the attribute's own": a_vr_that_is_not_the_attributes_own,
    "words in coded attributes": words_in_coded_attributes,
    "a kept attribute of another VR": kept_attributes_of_another_vr,
    "text in binary numbers": text_in_binary_numbers,
    "free text that no table names": free_text_that_no_table_names,
}
