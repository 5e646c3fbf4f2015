"""Folders of images: what becomes of each kind of picture, pixel by pixel; what is hidden; what is refused, and how."""

import re
import struct
import warnings
import zlib
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from common.data.folder import GROUND, Aside, _decode, _decode_all, is_hidden, load_folder, to_rgb
from common.errors import UsageError

SIDE = 4
DEEP = np.array([[0, 128, 129, 257], [1000, 32767, 32768, 65535], [5, 385, 386, 642], [65406, 65407, 300, 43690]], np.uint16)
RED, BLUE, BROWN, BLACK, WHITE, CLEAR = (255, 0, 0), (0, 0, 255), (10, 20, 30), (0,) * 3, (255,) * 3, (255, 255, 255, 0)
G = (GROUND,) * 3
HALF = (round((255 * 128 + GROUND * 127) / 255), *[round(GROUND * 127 / 255)] * 2)  # red, over it
LOSSLESS = ("png", "webp", "tif")


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


def refusal(folder, side=SIDE):
    """The line that says why a folder is not read; no decoder may warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UsageError) as error:
            load_folder(folder, side)
    assert "\n" not in str(error.value)
    return str(error.value)


def png(width, height, bits, *chunks):
    """A grey picture that says it has so many pixels, with these chunks."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    framed = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, *chunks, b"IEND")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


class TestDeepPictures:
    @pytest.mark.parametrize(
        ("name", "options", "expected"),
        [
            *((name, {}, divided(DEEP)) for name in ("a.png", "a.tif", "a.pgm")),
            ("a.tif", {"compression": "tiff_lzw"}, divided(DEEP)),
            ("a.tif", {"tiffinfo": {262: 0}}, 255 - divided(DEEP)),  # 0 is white
            ("a.png", {"transparency": 1000}, np.where(DEEP == 1000, GROUND, divided(DEEP))),
        ],
    )
    def test_sixteen_bits_are_divided_by_257(self, tmp_path, name, options, expected):
        Image.fromarray(DEEP).save(tmp_path / name, **options)
        assert (grey(decoded(tmp_path / name)) == expected).all()

    def test_twelve_bits_are_scaled_by_4095(self):
        picture = Image.fromarray(np.array([[0, 2048, 4095]], np.uint16))
        picture.format, picture.tag_v2 = "TIFF", {258: (12,)}
        assert grey(np.asarray(to_rgb(picture))).tolist() == [[0, 128, 255]]

    @pytest.mark.parametrize("kind", [np.int32, np.float32])
    def test_numbers_without_a_range_are_refused_by_name(self, tmp_path, kind):
        folder = write(tmp_path / "d", Image.fromarray(np.zeros((SIDE, SIDE), kind)), name="0.tif")
        assert re.search(r"train/cats/0\.tif holds signed or 32-bit .* save it with 8 or 16 bits", refusal(folder))


class TestTransparency:
    @pytest.mark.parametrize(
        ("kind", "mode", "row", "transparency", "expected"),
        [
            *((kind, "RGBA", [(*RED, 255), (*RED, 128), (*RED, 0), CLEAR], None, [RED, HALF, G, G]) for kind in LOSSLESS),
            ("png", "LA", [(0, 255), (0, 0), (255, 255), (255, 0)], None, [BLACK, G, WHITE, G]),
            ("png", "RGB", [BLACK, RED, BLACK, BLACK], RED, [BLACK, G, BLACK, BLACK]),
            ("png", "L", [0, 7, 0, 0], 7, [BLACK, G, BLACK, BLACK]),
            ("png", "1", [0, 1, 0, 0], 1, [BLACK, G, BLACK, BLACK]),
            *(("png", "P", [0, 1, 2, 0], level, [BROWN, G, BLUE, BROWN]) for level in (1, bytes([255, 0, 255]))),
        ],
    )
    def test_what_is_transparent_lies_over_mid_grey(self, tmp_path, kind, mode, row, transparency, expected):
        picture = Image.new(mode, (SIDE, SIDE))
        if mode == "P":
            picture.putpalette([*BROWN, 200, 100, 50, *BLUE])
        picture.putdata(row * SIDE)
        options = {} if transparency is None else {"transparency": transparency}
        picture.save(tmp_path / f"a.{kind}", lossless=True, exact=True, **options)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = decoded(tmp_path / f"a.{kind}")[0].astype(int)
        assert abs(found - expected).max() <= (mode == "RGBA")

    @pytest.mark.parametrize("mode", ["PA", "RGBa", "La"])
    def test_rarer_modes_with_alpha(self, mode):
        picture = Image.new("RGBA", (1, 1), (0, 0, 0, 0))
        picture = picture.convert("LA").convert("La") if mode == "La" else picture.convert(mode)
        assert np.asarray(to_rgb(picture)).tolist() == [[[GROUND] * 3]]

    @pytest.mark.parametrize(("bits", "levels"), [(2, (0, 1, 2, 3)), (4, (5, 15))])
    def test_the_transparent_level_of_few_bits_is_scaled_as_the_pixels_are(self, tmp_path, bits, levels):
        """Pillow writes none. One row is a filter, 0, and a byte of levels."""
        n, row = len(levels), bytes([0, int("".join(f"{level:0{bits}b}" for level in levels), 2)])
        for transparent in levels:
            chunks = (b"tRNS" + struct.pack(">H", transparent), b"IDAT" + zlib.compress(row * n))
            (tmp_path / "a.png").write_bytes(png(n, n, bits, *chunks))
            wanted = [GROUND if level == transparent else 255 * level // (2**bits - 1) for level in levels]
            assert (grey(decoded(tmp_path / "a.png")) == wanted).all()

    def test_classes_that_differ_in_alpha_alone_can_be_told_apart(self, tmp_path):
        """Black everywhere, and half of it transparent: without its alpha every one of these is the same picture."""
        for label, alpha in (("left", [255, 0]), ("right", [0, 255])):
            pixels = np.zeros((SIDE, SIDE, 4), np.uint8)
            pixels[..., 3] = np.repeat(alpha, SIDE // 2)
            write(tmp_path, Image.fromarray(pixels), classes=(label,))
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


def test_images_that_do_not_fit_into_memory_are_refused_before_any_is_read(tmp_path, monkeypatch):
    folder = write(tmp_path / "d")
    assert "choose a smaller --image-size" in refusal(folder, 10**9)
    needed = 4 * 3 * SIDE**2  # both parts together
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=needed))
    load_folder(folder, SIDE)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=needed - 1))
    assert re.search("4 images of 4 x 4 pixels take .* GiB are free: choose a smaller --image-size", refusal(folder))


class TestWhatCannotBeRead:
    def check(self, folder, named):
        assert refusal(folder).startswith(f"cannot read the image {folder / named} (")

    @pytest.mark.parametrize(
        "content", [b"", b"no picture", *(png(side, side, 1, b"IDAT" + zlib.compress(b"")) for side in (SIDE, 30_000, 0))]
    )
    def test_contents_that_are_no_picture(self, tmp_path, content):
        folder = write(tmp_path / "d")
        (folder / "train/dogs/0.png").write_bytes(content)
        self.check(folder, "train/dogs/0.png")

    def test_a_text_chunk_that_unpacks_to_more_than_pillow_reads(self, tmp_path):
        folder, text = write(tmp_path / "d"), PngImagePlugin.PngInfo()
        text.add_text("comment", "x" * 3_000_000, zip=True)
        Image.new("RGB", (SIDE, SIDE)).save(folder / "test/cats/0.png", pnginfo=text)
        self.check(folder, "test/cats/0.png")

    @pytest.mark.parametrize("error", [SyntaxError, MemoryError, struct.error, zlib.error, RecursionError, Warning, KeyError])
    def test_whatever_a_decoder_raises(self, tmp_path, monkeypatch, error):
        folder = write(tmp_path / "d")

        def fail(path):
            raise error("two\nlines")

        monkeypatch.setattr(Image, "open", fail)
        self.check(folder, "train/cats/0.png")

    @given(st.sampled_from(["png", "jpg", "tif", "webp"]), st.integers(0, 2000), st.integers(0, 255))
    def test_a_damaged_file_is_read_or_refused(self, tmp_path, kind, place, value):
        path = tmp_path / f"0.{kind}"
        Image.fromarray(np.arange(300).reshape(10, 10, 3).astype(np.uint8)).save(path)
        content = bytearray(path.read_bytes())
        content[place % len(content)] = value
        path.write_bytes(content)
        try:
            shape, told = _decode_all([str(path)], SIDE, Aside()).shape, ""
        except UsageError as error:
            shape, told = None, str(error)
        assert shape == (1, SIDE, SIDE, 3) or (str(path) in told and "\n" not in told)


class TestHidden:
    def test_names_of_systems_and_editors(self):
        left = [".ipynb_checkpoints", "._0.png", ".DS_Store", "Thumbs.db", "__MACOSX", "desktop.ini", "Desktop.ini", "@eaDir"]
        others = ["0.png", "cats", "_0.png", "thumbs", "a.b.png", "__main__"]
        assert [name for name in (*left, *others) if is_hidden(name)] == left

    def test_hidden_files_and_folders_are_no_class_and_no_image_and_are_told(self, tmp_path):
        folder = write(tmp_path / ".here" / "d")  # what lies above it is not looked at
        _, plain, _ = load_folder(folder, SIDE)
        for part in ("train", "test"):
            for name in (".ipynb_checkpoints", "cats/.ipynb_checkpoints", "__MACOSX"):
                (folder / part / name).mkdir()
                for picture in ("0.png", "1.png"):
                    Image.new("RGB", (SIDE, SIDE)).save(folder / part / name / picture)
        for name in ("train/cats/._0.png", "train/dogs/Thumbs.db", "train/.DS_Store"):
            (folder / name).write_bytes(b"\0\5\x16\7")
        source, train, test = load_folder(folder, SIDE)
        assert (source.classes, len(train), len(test)) == (2, 2, 2)
        assert (train.images == plain.images).all()
        kind = "hidden files and folders, which are neither images nor classes"
        assert source.notes == (f"{kind}: 9 ({folder}/test/.ipynb_checkpoints, ...)",)

    def test_files_that_are_no_images_are_told_and_where_there_is_nothing_else_there_is_nothing_to_tell(self, tmp_path):
        assert load_folder(write(tmp_path), SIDE)[0].notes == ()
        (tmp_path / "train/dogs/notes.txt").write_text("good dogs")
        (note,) = load_folder(tmp_path, SIDE)[0].notes
        assert note == f"files left out, since their names are not those of images: 1 ({tmp_path}/train/dogs/notes.txt)"


class TestFolders:
    def test_a_single_class_is_refused(self, tmp_path):
        write(tmp_path, classes=("cats",))
        (tmp_path / "train/.ipynb_checkpoints").mkdir()
        assert f"{tmp_path}/train has a single class, 'cats'" in refusal(tmp_path)

    def test_a_class_without_images_is_named(self, tmp_path):
        write(tmp_path)
        (tmp_path / "test/dogs/0.png").rename(tmp_path / "test/dogs/._0.png")
        assert re.search(f"{tmp_path}/test is no folder .*dogs", refusal(tmp_path))

    def test_no_class_at_all(self, tmp_path):
        (tmp_path / "train/.git").mkdir(parents=True)
        assert "no folder that could be a class" in refusal(tmp_path)

    def test_one_folder_twice(self, tmp_path):
        write(tmp_path)
        (tmp_path / "test").rename(tmp_path / "away")
        (tmp_path / "test").symlink_to(tmp_path / "train")
        assert "are the same folder" in refusal(tmp_path)

    def test_a_file_in_place_of_the_folder(self, tmp_path):
        (tmp_path / "train").write_text("")
        assert "cannot read the folder" in refusal(tmp_path)
