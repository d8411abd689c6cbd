import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from vipo_cli.benchmarks.geneval import wrong
from vipo_cli.shapes.captions import TASKS, draw_caption, draw_scene
from vipo_cli.shapes.detector import COLOURLESS, ShapesDetector
from vipo_cli.shapes.prompts import metadata
from vipo_cli.shapes.scene import BACKGROUNDS, COLOURS, SHAPES, Item, Scene, render

DETECTOR = ShapesDetector()


def softened(pixels, rng):
    """Blur and dirty a picture about as much as an autoencoder does."""
    blurred = gaussian_filter(pixels.astype(float), (0.5, 0.5, 0))
    noisy = blurred + rng.normal(0, 3, pixels.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def accuracy(task, number, spoil=lambda pixels, rng: pixels):
    rng = np.random.default_rng(7)
    right = 0
    for _ in range(number):
        caption = draw_caption(rng, task)
        picture = Image.fromarray(spoil(render(draw_scene(rng, caption)), rng))
        found = DETECTOR.detect(picture)
        right += not wrong(metadata(caption), found, lambda d, p=picture: DETECTOR.colour(p, d))
    return right / number


@pytest.mark.parametrize("task", TASKS)
def test_rendered_pictures_are_judged_right(task):
    assert accuracy(task, 1000) >= 0.98


@pytest.mark.parametrize("task", TASKS)
def test_slightly_blurred_and_noisy_pictures_are_judged_right(task):
    assert accuracy(task, 100, softened) >= 0.97


def detect(*items, **options):
    picture = Image.fromarray(render(Scene(items, **options)))
    return picture, DETECTOR.detect(picture)


@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_found_where_it_is_in_every_colour(shape, colour, background):
    picture, (one,) = detect(Item(shape, colour, 0.45, 0.55, 0.5), background=background)
    assert one.label == shape
    assert one.score > 0.9
    assert DETECTOR.colour(picture, one) == colour
    left, top, right, bottom = one.box
    assert (left + right) / 2 == pytest.approx(0.45 * 32, abs=1)
    assert (top + bottom) / 2 == pytest.approx(0.55 * 32, abs=1)
    assert right - left == pytest.approx(16, abs=2)


@pytest.mark.parametrize("colour", COLOURS)
def test_colours_survive_fading(colour):
    picture, (one,) = detect(Item("circle", colour, 0.5, 0.5, 0.5), background="white", fading=0.5)
    assert DETECTOR.colour(picture, one) == colour


def test_shapes_of_two_colours_that_touch_are_told_apart():
    items = Item("square", "red", 0.3, 0.5, 0.4), Item("square", "blue", 0.66, 0.5, 0.4)
    picture, found = detect(*items)
    assert {(one.label, DETECTOR.colour(picture, one)) for one in found} == {
        ("square", "red"),
        ("square", "blue"),
    }


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_cut_by_the_border_is_still_recognised(shape):
    _, (one,) = detect(Item(shape, "purple", 0.18, 0.5, 0.5))
    assert one.label == shape
    assert one.score > 0.3


@pytest.mark.parametrize("size", [24, 48, 100])
def test_pictures_of_other_sizes_are_read_too(size):
    scene = Scene((Item("triangle", "green", 0.5, 0.5, 0.5),))
    (one,) = DETECTOR.detect(Image.fromarray(render(scene, size)))
    assert one.label == "triangle"
    assert one.score > 0.9


@pytest.mark.parametrize("colour", [(255, 255, 255), (0, 0, 0), (168, 172, 178), (200, 40, 40)])
def test_there_is_nothing_in_an_empty_picture(colour):
    assert DETECTOR.detect(Image.new("RGB", (32, 32), colour)) == []


def test_faint_noise_is_no_object():
    noise = np.random.default_rng(0).normal(128, 4, (32, 32, 3))
    assert DETECTOR.detect(Image.fromarray(noise.astype(np.uint8))) == []


def distances(x=16.0, y=16.0):
    rows, columns = np.mgrid[0:32, 0:32] + 0.5
    return columns - x, rows - y


def painted(distance):
    cover = np.clip(0.5 - distance, 0, 1)[..., None]
    pixels = 240 + cover * (np.array(COLOURS["red"]) - 240)
    return Image.fromarray(pixels.astype(np.uint8))


def blobs():
    dx, dy = distances()
    yield np.minimum(np.hypot(dx + 4, dy) - 5, np.hypot(dx - 3, dy) - 5)  # two merged circles
    yield np.maximum(np.hypot(dx, dy) - 7, dy)  # half a circle
    yield np.maximum((2 * np.abs(dx) + dy - 7) / 5**0.5, -dy - 7)  # a triangle upside down
    yield np.maximum(np.abs(dx) / 1.5, np.abs(dy)) - 5  # a brick
    yield np.maximum(7 - np.hypot(dx, dy), np.hypot(dx, dy) - 10)  # a ring


@pytest.mark.parametrize("blob", list(blobs()))
def test_what_is_no_shape_is_no_sure_detection(blob):
    assert all(one.score < 0.5 for one in DETECTOR.detect(painted(blob)))


def test_an_object_of_no_colour_has_none():
    pixels = np.full((32, 32, 3), 240, np.uint8)
    pixels[8:24, 8:24] = 90
    picture = Image.fromarray(pixels)
    (one,) = DETECTOR.detect(picture)
    assert one.label == "square"
    assert DETECTOR.colour(picture, one) == COLOURLESS
