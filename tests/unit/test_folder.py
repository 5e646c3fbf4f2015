"""Folders of images: what becomes of each kind of picture, pixel by pixel; what is hidden; what is refused, and how."""

import struct
import warnings
import zlib
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin, TiffImagePlugin

from common.data.folder import GROUND, Aside, _decode, _decode_all, is_hidden, load_folder, to_rgb
from common.errors import UsageError

SIDE = 4
DEEP = np.array([[0, 128, 129, 257], [1000, 32767, 32768, 65535], [5, 385, 386, 642], [65406, 65407, 300, 43690]], np.uint16)
RED, CLEAR = (255, 0, 0), (255, 255, 255, 0)


def divided(levels):
    """Each level over 257, to the nearest: an independent computation."""
    return np.array([[round(int(v) / 257) for v in row] for row in levels], dtype=np.uint8)


def decoded(path):
    """The picture as it is trained on, its size kept; no decoder may warn on the terminal."""
    with Image.open(path) as image:
        side = image.size[0]
    return _decode(str(path), side, Aside())


def grey(pixels):
    """Level of a picture whose three colours are the same everywhere."""
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0]


def write(where, picture=None, classes=("cats", "dogs"), name="0.png"):
    """A folder with one picture of each class and part."""
    picture = picture or Image.new("RGB", (SIDE, SIDE), RED)
    for part in ("train", "test"):
        for label in classes:
            (where / part / label).mkdir(parents=True, exist_ok=True)
            picture.save(where / part / label / name)
    return where


class TestDeepPictures:
    @pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
    def test_sixteen_bits_are_divided_by_257(self, tmp_path, name):
        Image.fromarray(DEEP).save(tmp_path / name)
        assert (grey(decoded(tmp_path / name)) == divided(DEEP)).all()

    def test_also_compressed_and_where_0_is_white(self, tmp_path):
        Image.fromarray(DEEP).save(tmp_path / "a.tif", compression="tiff_lzw")
        assert (grey(decoded(tmp_path / "a.tif")) == divided(DEEP)).all()
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[262] = 0
        Image.fromarray(DEEP).save(tmp_path / "b.tif", tiffinfo=tags)
        assert (grey(decoded(tmp_path / "b.tif")) == 255 - divided(DEEP)).all()

    def test_twelve_bits_are_scaled_by_4095(self):
        picture = Image.fromarray(np.array([[0, 2048, 4095]], np.uint16))
        picture.format, picture.tag_v2 = "TIFF", {258: (12,)}
        assert grey(np.asarray(to_rgb(picture))).tolist() == [[0, 128, 255]]

    def test_a_level_that_is_transparent_becomes_the_ground(self, tmp_path):
        Image.fromarray(DEEP).save(tmp_path / "a.png", transparency=1000)
        assert (grey(decoded(tmp_path / "a.png")) == np.where(DEEP == 1000, GROUND, divided(DEEP))).all()

    @pytest.mark.parametrize("kind", [np.int32, np.float32])
    def test_numbers_without_a_range_are_refused_by_name(self, tmp_path, kind):
        folder = write(tmp_path / "d", Image.fromarray(np.zeros((SIDE, SIDE), kind)), name="0.tif")
        with pytest.raises(UsageError, match=r"train/cats/0\.tif holds signed or 32-bit .* save it with 8 or 16 bits"):
            load_folder(folder, SIDE)


class TestTransparency:
    def test_half_transparent_colours_lie_over_mid_grey(self, tmp_path):
        pixels = np.zeros((1, 4, 4), np.uint8)
        pixels[0] = [(*RED, 255), (*RED, 128), (*RED, 0), CLEAR]
        half = [round((255 * 128 + GROUND * 127) / 255), *[round(GROUND * 127 / 255)] * 2]
        for name in ("a.png", "a.webp", "a.tif"):
            Image.fromarray(pixels).resize((4, 4), Image.Resampling.NEAREST).save(tmp_path / name, lossless=True, exact=True)
            row = decoded(tmp_path / name)[0].astype(int)
            assert abs(row - [RED, half, [GROUND] * 3, [GROUND] * 3]).max() <= 1

    def test_grey_with_alpha(self, tmp_path):
        pixels = np.tile(np.array([[[0, 255], [0, 0], [255, 255], [255, 0]]], np.uint8), (4, 1, 1))
        Image.fromarray(pixels, "LA").save(tmp_path / "a.png")
        assert grey(decoded(tmp_path / "a.png"))[0].tolist() == [0, GROUND, 255, GROUND]

    @pytest.mark.parametrize("transparency", [1, bytes([255, 0, 255])])
    def test_a_transparent_colour_of_a_palette(self, tmp_path, transparency):
        picture = Image.new("P", (SIDE, SIDE))
        picture.putpalette([10, 20, 30, 200, 100, 50, 0, 0, 255])
        picture.putpixel((1, 0), 1)
        picture.putpixel((2, 0), 2)
        picture.save(tmp_path / "a.png", transparency=transparency)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            row = decoded(tmp_path / "a.png")[0]
        assert row.tolist() == [[10, 20, 30], [GROUND] * 3, [0, 0, 255], [10, 20, 30]]

    @pytest.mark.parametrize(("mode", "transparency", "colour"), [("RGB", RED, RED), ("L", 7, 7), ("1", 1, 1)])
    def test_a_transparent_colour_of_a_picture_without_alpha(self, tmp_path, mode, transparency, colour):
        picture = Image.new(mode, (SIDE, SIDE))
        picture.putpixel((1, 0), colour)
        picture.save(tmp_path / "a.png", transparency=transparency)
        assert grey(decoded(tmp_path / "a.png"))[0].tolist() == [0, GROUND, 0, 0]

    @pytest.mark.parametrize("mode", ["PA", "RGBa", "La"])
    def test_rarer_modes_with_alpha(self, mode):
        picture = Image.new("RGBA", (1, 1), (0, 0, 0, 0))
        picture = picture.convert("LA").convert("La") if mode == "La" else picture.convert(mode)
        assert np.asarray(to_rgb(picture)).tolist() == [[[GROUND] * 3]]

    def test_classes_that_differ_in_alpha_alone_can_be_told_apart(self, tmp_path):
        """Black everywhere, and half of it transparent: without its alpha every one of these is the same picture."""
        for part in ("train", "test"):
            for label, alpha in (("left", [255, 0]), ("right", [0, 255])):
                pixels = np.zeros((SIDE, SIDE, 4), np.uint8)
                pixels[..., 3] = np.repeat(alpha, SIDE // 2)
                (tmp_path / part / label).mkdir(parents=True)
                Image.fromarray(pixels).save(tmp_path / part / label / "0.png")
        _, train, _ = load_folder(tmp_path, SIDE)
        left, right = train.images
        assert (left == right[:, ::-1]).all()
        assert sorted({*left.flatten()}) == [0, GROUND]


class TestOrientation:
    @pytest.mark.parametrize("kind", ["png", "jpg", "tif", "webp"])
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_pictures_are_turned_as_exif_says(self, tmp_path, kind, orientation):
        level = np.arange(SIDE**2, dtype=np.uint8).reshape(SIDE, SIDE) * 15
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(level).save(tmp_path / f"a.{kind}", exif=exif, quality=100, lossless=True)
        upright = {
            **{1: level, 2: level[:, ::-1], 3: level[::-1, ::-1], 4: level[::-1]},
            **{5: level.T, 6: np.rot90(level, -1), 7: level[::-1, ::-1].T, 8: np.rot90(level)},
        }[orientation]
        assert abs(grey(decoded(tmp_path / f"a.{kind}")).astype(int) - upright).max() <= 2

    def test_before_its_centre_is_cut_out(self, tmp_path):
        """A wide picture that is shown upright keeps the centre of its height."""
        exif = Image.Exif()
        exif[0x0112] = 6
        level = np.repeat(np.arange(8, dtype=np.uint8) * 30, 2).reshape(8, 2).T
        Image.fromarray(level).save(tmp_path / "a.png", exif=exif)
        assert grey(_decode(str(tmp_path / "a.png"), 2, Aside())).tolist() == [[90, 90], [120, 120]]


class TestColours:
    @pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB", "RGBX"])
    def test_other_colour_spaces_are_converted(self, tmp_path, mode):
        picture = Image.new("RGB", (SIDE, SIDE), RED)
        (picture.convert(mode) if mode != "RGBX" else picture).save(tmp_path / "a.tif")
        assert abs(decoded(tmp_path / "a.tif").astype(int) - RED).max() <= 6

    def test_one_bit(self, tmp_path):
        Image.fromarray(np.eye(SIDE, dtype=bool)).save(tmp_path / "a.png")
        assert (grey(decoded(tmp_path / "a.png")) == 255 * np.eye(SIDE)).all()

    @pytest.mark.parametrize("kind", ["gif", "png", "tif", "webp"])
    def test_of_several_frames_the_first_is_used_and_that_is_said(self, tmp_path, kind):
        frames = [Image.new("RGB", (SIDE, SIDE), colour) for colour in (RED, "blue")]
        frames[0].save(tmp_path / f"a.{kind}", save_all=True, append_images=frames[1:], lossless=True)
        aside = Aside()
        assert (_decode(str(tmp_path / f"a.{kind}"), SIDE, aside) == RED).all()
        assert aside.notes() == (f"images of several frames, of which the first is used: 1 ({tmp_path}/a.{kind})",)


def png(width, height):
    """A picture of so many pixels that says so, and has none of them."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = (header, b"IDAT" + zlib.compress(b""), b"IEND")
    return b"\x89PNG\r\n\x1a\n" + b"".join(struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)


def grey_png(path, bits, levels, transparent):
    """A grey picture of 2 or 4 bits with one transparent level; Pillow writes none. levels: one row, a whole byte of them."""
    packed = bytes([0, int("".join(f"{level:0{bits}b}" for level in levels), 2)]) * len(levels)  # filter 0, one byte a row
    header = b"IHDR" + struct.pack(">IIBBBBB", len(levels), len(levels), bits, 0, 0, 0, 0)
    chunks = (header, b"tRNS" + struct.pack(">H", transparent), b"IDAT" + zlib.compress(packed), b"IEND")
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + b"".join(struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)
    )


@pytest.mark.parametrize(("bits", "levels"), [(2, (0, 1, 2, 3)), (4, (5, 15))])
def test_the_transparent_level_of_few_bits_is_scaled_as_the_pixels_are(tmp_path, bits, levels):
    most = 2**bits - 1
    for transparent in levels:
        grey_png(tmp_path / "a.png", bits, levels, transparent)
        wanted = [GROUND if level == transparent else 255 * level // most for level in levels]
        assert (grey(decoded(tmp_path / "a.png")) == wanted).all()


def test_images_that_do_not_fit_into_memory_are_refused_before_any_is_read(tmp_path, monkeypatch):
    folder = write(tmp_path / "d")
    needed = 4 * 3 * SIDE**2  # both parts together
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=needed))
    load_folder(folder, SIDE)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=needed - 1))
    with pytest.raises(UsageError, match=r"4 images of 4 x 4 pixels take .* GiB are free: choose a smaller --image-size"):
        load_folder(folder, SIDE)


def with_long_text(path):
    """A picture whose comment unpacks to more than Pillow reads."""
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "x" * 3_000_000, zip=True)
    Image.new("RGB", (SIDE, SIDE)).save(path, pnginfo=text)


class TestWhatCannotBeRead:
    def check(self, folder, named):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(UsageError) as refusal:
                load_folder(folder, SIDE)
        assert str(refusal.value).startswith(f"cannot read the image {folder / named} (")
        assert "\n" not in str(refusal.value)

    @pytest.mark.parametrize("content", [b"", b"no picture", png(SIDE, SIDE), png(30_000, 30_000), png(0, 0)])
    def test_contents_that_are_no_picture(self, tmp_path, content):
        folder = write(tmp_path / "d")
        (folder / "train/dogs/0.png").write_bytes(content)
        self.check(folder, "train/dogs/0.png")

    def test_a_text_chunk_that_is_too_long(self, tmp_path):
        folder = write(tmp_path / "d")
        with_long_text(folder / "test/cats/0.png")
        self.check(folder, "test/cats/0.png")

    @pytest.mark.parametrize("error", [SyntaxError, MemoryError, struct.error, zlib.error, RecursionError, Warning, KeyError])
    def test_whatever_a_decoder_raises(self, tmp_path, monkeypatch, error):
        folder = write(tmp_path / "d")

        def fail(path):
            raise error("two\nlines")

        monkeypatch.setattr(Image, "open", fail)
        self.check(folder, "train/cats/0.png")

    @given(st.integers(0, 3), st.integers(0, 2000), st.integers(0, 255))
    def test_a_damaged_file_is_read_or_refused(self, tmp_path_factory, kind, place, value):
        folder = tmp_path_factory.getbasetemp() / "damaged"
        name = f"0.{('png', 'jpg', 'tif', 'webp')[kind]}"
        path = folder / name
        folder.mkdir(exist_ok=True)
        Image.fromarray(np.arange(300, dtype=np.uint16).reshape(10, 10, 3).astype(np.uint8)).save(path)
        content = bytearray(path.read_bytes())
        content[place % len(content)] = value
        path.write_bytes(content)
        try:
            images = _decode_all([str(path)], SIDE, Aside())
        except UsageError as refusal:
            told = str(refusal)
        else:
            told = ""
            assert images.shape == (1, SIDE, SIDE, 3)
        assert not told or (str(path) in told and "\n" not in told)

    def test_more_pixels_than_there_is_memory(self, tmp_path):
        with pytest.raises(UsageError, match="choose a smaller --image-size"):
            load_folder(write(tmp_path / "d"), 10**9)


class TestHidden:
    @pytest.mark.parametrize(
        "name", [".ipynb_checkpoints", "._0.png", ".DS_Store", "Thumbs.db", "__MACOSX", "desktop.ini", "Desktop.ini", "@eaDir"]
    )
    def test_names_of_systems_and_editors(self, name):
        assert is_hidden(name)

    @pytest.mark.parametrize("name", ["0.png", "cats", "_0.png", "thumbs", "a.b.png", "__main__"])
    def test_other_names(self, name):
        assert not is_hidden(name)

    def test_hidden_files_and_folders_are_no_class_and_no_image_and_are_told(self, tmp_path):
        folder = write(tmp_path / ".here" / "d")  # what lies above it is not looked at
        _, plain, _ = load_folder(folder, SIDE)
        for part in ("train", "test"):
            for name in (".ipynb_checkpoints", "cats/.ipynb_checkpoints", "__MACOSX"):
                (folder / part / name).mkdir()
                Image.new("RGB", (SIDE, SIDE)).save(folder / part / name / "0.png")
                Image.new("RGB", (SIDE, SIDE)).save(folder / part / name / "1.png")
        (folder / "train/cats/._0.png").write_bytes(b"\0\5\x16\7")
        (folder / "train/dogs/Thumbs.db").write_bytes(b"")
        (folder / "train/.DS_Store").write_bytes(b"")
        source, train, test = load_folder(folder, SIDE)
        assert (source.classes, len(train), len(test)) == (2, 2, 2)
        assert (train.images == plain.images).all()
        (note,) = source.notes
        assert (
            note == f"hidden files and folders, which are neither images nor classes: 9 ({folder}/test/.ipynb_checkpoints, ...)"
        )

    def test_files_that_are_no_images_are_told(self, tmp_path):
        folder = write(tmp_path)
        (folder / "train/dogs/notes.txt").write_text("good dogs")
        (note,) = load_folder(folder, SIDE)[0].notes
        assert note == f"files left out, since their names are not those of images: 1 ({folder}/train/dogs/notes.txt)"

    def test_where_there_is_nothing_else_there_is_nothing_to_tell(self, tmp_path):
        assert load_folder(write(tmp_path), SIDE)[0].notes == ()


class TestFolders:
    def test_a_single_class_is_refused(self, tmp_path):
        write(tmp_path, classes=("cats",))
        (tmp_path / "train/.ipynb_checkpoints").mkdir()
        with pytest.raises(UsageError, match=rf"{tmp_path}/train has a single class, 'cats'"):
            load_folder(tmp_path, SIDE)

    def test_a_class_without_images_is_named(self, tmp_path):
        write(tmp_path)
        (tmp_path / "test/dogs/0.png").rename(tmp_path / "test/dogs/._0.png")
        with pytest.raises(UsageError, match=rf"{tmp_path}/test is no folder .*dogs"):
            load_folder(tmp_path, SIDE)

    def test_no_class_at_all(self, tmp_path):
        (tmp_path / "train/.git").mkdir(parents=True)
        with pytest.raises(UsageError, match="no folder that could be a class"):
            load_folder(tmp_path, SIDE)

    def test_one_folder_twice(self, tmp_path):
        write(tmp_path)
        (tmp_path / "test").rename(tmp_path / "away")
        (tmp_path / "test").symlink_to(tmp_path / "train")
        with pytest.raises(UsageError, match="are the same folder"):
            load_folder(tmp_path, SIDE)

    def test_a_file_in_place_of_the_folder(self, tmp_path):
        (tmp_path / "train").write_text("")
        with pytest.raises(UsageError, match="cannot read the folder"):
            load_folder(tmp_path, SIDE)
