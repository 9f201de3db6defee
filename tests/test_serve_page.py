"""The page in a real Chromium, as people use it: with the shipped model, a mouse, a finger and a keyboard."""

import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from pycocotools import mask as coco_mask

import maskrcnn
from serving import PATIENCE, Held, Running, serving

try:
    from playwright.sync_api import Browser, Page, expect, sync_playwright
except ImportError:
    sync_playwright = None  # type: ignore[assignment]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
MISSING = [
    n for n, there in (("the package playwright", sync_playwright), ("chromium", CHROMIUM)) if not there
]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        bool(MISSING), reason=f"the page is tested in a browser; missing: {', '.join(MISSING)}"
    ),
]
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
]  # fmt: skip
COINS = Path(__file__).parent.parent / "examples" / "coins.png"
COIN_COUNT = 24
Open = Callable[..., "Page"]


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with serving(maskrcnn.load("shapes"), max_bytes=8 * 2**20) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    with sync_playwright() as playwright:
        expect.set_options(timeout=1000 * PATIENCE)
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=ARGUMENTS, timeout=1000 * PATIENCE
        )
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser: "Browser", server: Running) -> Iterator[Open]:
    """Opens the page, in a window of its own. At the end: no error in it, and nothing asked of anybody else."""
    contexts, wrong = [], []

    def open_page(at: Running = server, **window: Any) -> "Page":
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}} | window)
        context.set_default_timeout(1000 * PATIENCE)
        contexts.append(context)
        page = context.new_page()
        page.asked = []  # type: ignore[attr-defined]
        own = f"http://127.0.0.1:{at.port}/"
        page.on("request", lambda r: page.asked.append(r.url))  # type: ignore[attr-defined]
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda m: wrong.append(m.text) if "Content Security" in m.text else None)
        page.on(
            "request", lambda r: None if r.url.startswith((own, "blob:", "data:")) else wrong.append(r.url)
        )
        page.goto(own)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def upload(page: "Page", *files: Any, count: int | None = COIN_COUNT) -> None:
    page.set_input_files("#files", list(files) or [COINS])
    if count is not None:
        expect(page.locator("#count")).to_have_text(f"{count} instances")


def memory(name: str, data: bytes) -> dict[str, Any]:
    return {"name": name, "mimeType": "application/octet-stream", "buffer": data}


def picture(image: PIL.Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def fetched(page: "Page", button: str) -> tuple[str, bytes]:
    with page.expect_download() as download:
        page.locator(button).click()
    return download.value.suggested_filename, Path(download.value.path()).read_bytes()


def test_every_coin_has_an_outline_and_a_row_and_each_finds_the_other(visit: Open) -> None:
    page = visit()
    upload(page)
    expect(page.locator("#shapes path:visible")).to_have_count(COIN_COUNT)
    expect(page.locator("#list li[data-id]:visible")).to_have_count(COIN_COUNT)

    page.locator("#shapes path[data-id='7']").hover()
    expect(page.locator("#list li[data-id='7']")).to_have_class("on")
    expect(page.locator("#tip")).to_contain_text("disc")
    page.locator("#list li[data-id='3'] .pick").hover()
    expect(page.locator("#shapes path.on")).to_have_attribute("data-id", "3")

    page.locator("#shapes path[data-id='7']").click()
    expect(page.locator("#list li.picked")).to_have_attribute("data-id", "7")
    page.keyboard.press("Escape")
    expect(page.locator("#list li.picked")).to_have_count(0)


def test_slider_and_classes_act_without_asking_the_server(visit: Open) -> None:
    page = visit()
    upload(page)
    asked = len(page.asked)  # type: ignore[attr-defined]
    page.locator("#score").fill("5")
    more = int(page.locator("#count").inner_text().split()[0])
    assert more > COIN_COUNT
    page.locator("#classes button", has_text="ring").click()
    expect(page.locator("#count")).to_have_text(f"{COIN_COUNT} instances")
    page.locator("#classes button", has_text="disc").click()
    expect(page.locator("#count")).to_have_text("0 instances")
    expect(page.locator("#list .none")).to_contain_text("Nothing above this score")
    page.locator("#every").click()
    expect(page.locator("#count")).to_have_text(f"{more} instances")
    assert len(page.asked) == asked  # type: ignore[attr-defined]


def test_what_is_shown_can_be_taken_home(visit: Open, server: Running) -> None:
    page = visit()
    upload(page)
    pixels = np.asarray(PIL.Image.open(COINS).convert("RGB"))
    answer = server.client.post("/v1/predict", files={"file": COINS.read_bytes()}).json()["instances"]

    page.locator("#list li[data-id='2'] .pick").click()
    name, data = fetched(page, "#list li[data-id='2'] [aria-label='Download cut-out']")
    cut = np.asarray(PIL.Image.open(io.BytesIO(data)))
    x, y = (int(max(np.floor(v) - 1, 0)) for v in answer[2]["box"][:2])
    under = pixels[y : y + cut.shape[0], x : x + cut.shape[1]]
    mask = coco_mask.decode(answer[2]["mask"])[y : y + cut.shape[0], x : x + cut.shape[1]]
    assert name == "coins_2_disc.png" and cut.shape == (*under.shape[:2], 4)
    assert cut[0, 0, 3] == 0 and np.array_equal(cut[cut[..., 3] == 255][:, :3], under[cut[..., 3] == 255])
    assert ((cut[..., 3] > 127) != mask).sum() < 0.05 * mask.sum()

    page.locator("#list li[data-id='2'] .hide").click()
    page.locator("#list li[data-id='0'] .pick").hover()
    page.locator("#list li[data-id='0'] .dye input").fill("#0000ff")
    name, data = fetched(page, "[data-export='coco']")
    coco = json.loads(data)
    assert name == "coins_coco.json" and len(coco["annotations"]) == COIN_COUNT - 1
    assert [a["segmentation"] for a in coco["annotations"][:2]] == [i["mask"] for i in answer[:2]]
    assert coco["images"] == [{"id": 1, "file_name": "coins.png", "width": 384, "height": 303}]
    labelme = json.loads(fetched(page, "[data-export='labelme']")[1])
    assert len({json.dumps(s["points"]) for s in labelme["shapes"]}) >= COIN_COUNT - 1
    assert (labelme["imageHeight"], labelme["imageWidth"]) == (303, 384)

    overlay = np.asarray(PIL.Image.open(io.BytesIO(fetched(page, "[data-export='png']")[1])).convert("RGB"))
    assert overlay.shape == pixels.shape
    x1, y1, x2, y2 = (round(v) for v in answer[0]["box"])
    change = overlay.astype(int)[(y1 + y2) // 2, (x1 + x2) // 2] - pixels[(y1 + y2) // 2, (x1 + x2) // 2]
    assert change[2] > max(change[0], change[1])  # dyed blue
    x1, y1, x2, y2 = (round(v) for v in answer[2]["box"])
    middle = (y1 + y2) // 2 + 4, (x1 + x2) // 2
    assert np.array_equal(overlay[middle], pixels[middle])  # hidden


def test_a_cutout_is_copied_with_its_transparency(visit: Open) -> None:
    page = visit(permissions=["clipboard-read", "clipboard-write"])
    upload(page)
    page.locator("#list li[data-id='1'] .pick").click()
    page.locator("#list li[data-id='1'] [aria-label='Copy cut-out']").click()
    expect(page.locator("#toast")).to_contain_text("transparent")
    assert page.evaluate("async () => (await navigator.clipboard.read())[0].types") == ["image/png"]


def test_a_broken_photo_says_why_and_leaves_the_others_alone(visit: Open) -> None:
    page = visit()
    upload(page)
    upload(page, memory("torn.jpg", b"\xff\xd8\xff\xe0 not a photo"), count=None)
    expect(page.locator("#card h2")).to_have_text("No result for torn.jpg")
    expect(page.locator("#card")).to_contain_text("damaged")
    page.locator("#again").click()
    expect(page.locator("#card h2")).to_be_visible()
    page.locator("#drop").click()
    expect(page.locator("#count")).to_have_text(f"{COIN_COUNT} instances")
    upload(page, memory("huge.png", bytes(9 * 2**20)), count=None)
    expect(page.locator("#card")).to_contain_text("9.0 MiB")


def test_a_server_that_is_gone_is_said_to_be_gone(visit: Open) -> None:
    page = visit()
    page.route("**/v1/predict*", lambda route: route.abort())
    upload(page, count=None)
    expect(page.locator("#card")).to_contain_text("does not answer")
    page.unroute("**/v1/predict*")
    page.locator("#again").click()
    expect(page.locator("#count")).to_have_text(f"{COIN_COUNT} instances")


def test_a_busy_server_is_asked_again(visit: Open) -> None:
    page = visit()
    refusals = [429, 503]

    def busy(route: Any) -> None:
        if refusals:
            route.fulfill(
                status=refusals.pop(), headers={"Retry-After": "0.1"}, json={"error": {"message": "full"}}
            )
        else:
            route.continue_()

    page.route("**/v1/predict*", busy)
    upload(page)
    assert refusals == []


def test_the_stage_may_move_while_an_answer_is_made_ready(visit: Open) -> None:
    page = visit()
    page.evaluate("""() => {
        const make = createImageBitmap, stage = document.getElementById("stage");
        globalThis.moved = 0;
        globalThis.createImageBitmap = (file, options) => {
            if (options.resizeQuality) {
                globalThis.moved += 1;
                stage.dispatchEvent(new WheelEvent("wheel", { deltaY: -1, cancelable: true }));
            }
            return make(file, options);
        };
    }""")
    upload(page)
    assert page.evaluate("moved") == 1


def test_a_photo_is_at_hand_to_try_it_with(visit: Open) -> None:
    page = visit()
    page.get_by_role("button", name="Try a sample").click()
    expect(page.locator("#drawing")).to_have_attribute("aria-label", re.compile(r"^sample\.jpg: "))


def test_a_photo_of_twelve_megapixels(visit: Open) -> None:
    page = visit()
    large = PIL.Image.open(COINS).convert("RGB").resize((4000, 3000), PIL.Image.Resampling.BICUBIC)
    upload(page, memory("large.jpg", picture(large, "JPEG", quality=85)), count=None)
    expect(page.locator("#told")).to_contain_text("4000 × 3000")
    expect(page.locator("#shapes path:visible").first).to_be_visible()
    page.locator("#shapes path:visible").last.hover()
    for _ in range(6):
        page.locator("[data-zoom='1.5']").click()
    _, data = fetched(page, "[data-export='png']")
    assert PIL.Image.open(io.BytesIO(data)).size == (4000, 3000)


def test_a_photo_taken_sideways_stands_upright_under_its_outlines(visit: Open) -> None:
    page = visit()
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    turned = PIL.Image.open(COINS).convert("RGB").rotate(90, expand=True)
    upload(page, memory("turned.jpg", picture(turned, "JPEG", quality=95, exif=exif)), count=None)
    expect(page.locator("#told")).to_contain_text("384 × 303")
    expect(page.locator("#picture")).to_have_js_property("naturalWidth", 384)
    expect(page.locator("#picture")).to_have_js_property("naturalHeight", 303)


def test_a_format_that_the_browser_cannot_show_has_outlines_all_the_same(visit: Open) -> None:
    page = visit()
    upload(page, memory("coins.tif", picture(PIL.Image.open(COINS), "TIFF")))
    expect(page.locator("[data-export='png']")).to_be_disabled()
    assert len(json.loads(fetched(page, "[data-export='coco']")[1])["annotations"]) == COIN_COUNT


def test_on_a_phone_it_fits_and_a_tap_chooses(visit: Open) -> None:
    page = visit(viewport={"width": 375, "height": 700}, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    upload(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    page.locator("#shapes path[data-id='5']").tap()
    expect(page.locator("#list li.picked")).to_have_attribute("data-id", "5")
    page.locator("#list li[data-id='9'] .pick").tap()
    expect(page.locator("#shapes path.on")).to_have_attribute("data-id", "9")
    small = page.evaluate(
        "() => [...document.querySelectorAll('.bar button, .tools button')].filter(b => b.offsetParent)"
        ".filter(b => b.offsetHeight < 32 || b.offsetWidth < 32).map(b => b.outerHTML)"
    )
    assert small == []


def test_two_fingers_zoom_about_the_place_between_them(visit: Open) -> None:
    """Fingers 80 pixels apart that end 200 apart enlarge 2.5 times, and what lies between them stays there."""
    page = visit(viewport={"width": 375, "height": 700}, has_touch=True, is_mobile=True)
    upload(page)
    fingers = page.context.new_cdp_session(page)
    box = page.locator("#stage").bounding_box()
    assert box is not None
    x, y = box["x"] + 150, box["y"] + 140

    def touch(kind: str, *at: tuple[float, float]) -> None:
        points = [{"x": px, "y": py, "id": i} for i, (px, py) in enumerate(at)]
        fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    def zoom() -> list[float]:
        said = page.locator("#space").get_attribute("transform") or ""
        return [float(v) for v in re.findall(r"-?[\d.]+", said)]  # x, y, scale

    x0, y0, before = zoom()
    touch("touchStart", (x - 40, y), (x + 40, y))
    for spread in (60, 80, 100):
        touch("touchMove", (x - spread, y), (x + spread, y))
    touch("touchEnd")
    x1, y1, after = zoom()
    assert after == pytest.approx(2.5 * before, rel=0.05)
    for old, new, finger in ((x0, x1, 150), (y0, y1, 140)):
        assert (finger - old) / before == pytest.approx((finger - new) / after, abs=6)
    assert page.evaluate("visualViewport.scale") == 1  # the picture, not the page
    expect(page.locator("#list li.picked")).to_have_count(0)
    touch("touchStart", (x, y))
    touch("touchMove", (x + 30, y + 20))
    touch("touchEnd")
    assert zoom() == pytest.approx([x1 + 30, y1 + 20, after], abs=1)


def test_the_camera_takes_a_photo_and_is_let_go(visit: Open) -> None:
    with serving(Held()) as quick:
        page = visit(quick)
        light = "() => { const s = document.querySelector('#lens video').srcObject; return s && s.active }"
        for button, count in (("Close", 0), ("Take it", 1)):
            page.locator("[data-camera]:visible").first.click()
            expect(page.locator("#lens .primary")).to_be_enabled()  # once there is something to take
            assert page.evaluate(light) is True
            page.locator("#lens button", has_text=button).click()
            expect(page.locator("#strip li")).to_have_count(count)
            page.wait_for_function(f"({light})() === null")  # a dialog tells that it is closed a little later
        expect(page.locator("#count")).to_have_text("1 instance")
        expect(page.locator("#told")).to_contain_text("camera 1.jpg")
        page.evaluate("() => { navigator.mediaDevices.getUserMedia = () => Promise.reject(new Error('no')) }")
        page.locator("[data-camera]:visible").first.click()
        expect(page.locator("#toast")).to_contain_text("No camera")


def test_what_was_copied_can_be_pasted(visit: Open) -> None:
    page = visit(permissions=["clipboard-read", "clipboard-write"])
    upload(page)
    page.locator("#list li[data-id='1'] .pick").click()
    page.keyboard.press("c")
    expect(page.locator("#toast")).to_contain_text("transparent")
    page.keyboard.press("Control+V")
    expect(page.locator("#strip li")).to_have_count(2)
    expect(page.locator("#told")).to_contain_text(re.compile(r"\.png · \d+ × \d+"))


def test_the_keyboard_is_enough(visit: Open) -> None:
    page = visit()
    upload(page)
    page.keyboard.press("ArrowDown")
    expect(page.locator("#list li.picked")).to_have_attribute("data-id", "0")
    page.keyboard.press("ArrowDown")
    expect(page.locator("#list li.picked")).to_have_attribute("data-id", "1")
    page.keyboard.press("h")
    expect(page.locator("#shapes path:visible")).to_have_count(COIN_COUNT - 1)
    page.keyboard.press("h")
    page.locator("#stage").focus()
    before = page.locator("#space").get_attribute("transform")
    page.keyboard.press("+")
    assert page.locator("#space").get_attribute("transform") != before
    page.keyboard.press("0")
    assert page.locator("#space").get_attribute("transform") == before
    page.locator("#tab-instances").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#tab-explain")).to_be_focused()


def test_a_screen_reader_hears_what_everything_is(visit: Open) -> None:
    page = visit()
    upload(page)
    tree = page.locator("body").aria_snapshot()
    assert not re.search(r"- button(?! \")", tree), "a button without a name"
    for said in (
        "24 instances",
        'slider "Least score',
        'button "disc, 99%',
        "coins.png: 24 disc",
        'tab "Explain"',
    ):
        assert said in tree
    expect(page.locator("#drawing")).to_have_attribute("aria-label", "coins.png: 24 disc")


def test_explain_shows_the_stages_in_a_frame_that_is_shut_off(visit: Open) -> None:
    page = visit()
    upload(page)
    page.locator("#tab-explain").click()
    inside = page.frame_locator("#study iframe")
    expect(inside.locator("h1")).to_contain_text("coins.png")
    inside.locator("button[data-hide]").first.click()  # its own script runs
    expect(inside.locator("button[data-hide]").first).to_have_attribute("aria-pressed", "false")
    frame = next(f for f in page.frames if f.url.endswith("/explained"))
    assert frame.evaluate("() => { try { return parent.document.title } catch { return 'shut' } }") == "shut"
    page.locator("#tab-instances").click()
    expect(page.locator("#shapes path:visible")).to_have_count(COIN_COUNT)


def test_several_photos_drop_into_a_strip(visit: Open) -> None:
    page = visit()
    coffee = COINS.parent / "photos" / "coffee.jpg"
    for file in (COINS, coffee):
        page.evaluate(
            """async ([name, bytes]) => {
                const data = new DataTransfer();
                data.items.add(new File([new Uint8Array(bytes)], name));
                dispatchEvent(new DragEvent("dragenter", {dataTransfer: data}));
                dispatchEvent(new DragEvent("drop", {dataTransfer: data, cancelable: true}));
            }""",
            [file.name, list(file.read_bytes())],
        )
    expect(page.locator("#strip li")).to_have_count(2)
    page.locator("#strip .photo").first.click()
    expect(page.locator("#count")).to_have_text(f"{COIN_COUNT} instances")
    page.keyboard.press("]")
    expect(page.locator("#told")).to_contain_text("coffee.jpg")
    page.locator("#strip .away").last.click()
    page.locator("#strip .away").click()
    expect(page.locator("#empty")).to_be_visible()


def test_light_and_dark(visit: Open) -> None:
    page = visit(color_scheme="dark")
    background = "() => getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(background) == "rgb(20, 22, 26)"
    page.locator("#theme").click()
    assert page.evaluate(background) == "rgb(251, 250, 248)"
    page.reload()
    assert page.evaluate(background) == "rgb(251, 250, 248)"


def test_a_server_with_a_token_asks_for_it(visit: Open) -> None:
    with serving(Held(), token="open sesame") as locked:
        page = visit(locked)
        page.locator("#token").fill("wrong")
        page.keyboard.press("Enter")
        page.locator("#token").fill("open sesame")
        page.keyboard.press("Enter")
        expect(page.locator("#model")).to_contain_text("weights.h5")
        page.set_input_files("#files", [memory("a.png", picture(PIL.Image.new("RGB", (40, 30)), "PNG"))])
        expect(page.locator("#count")).to_have_text("1 instance")
