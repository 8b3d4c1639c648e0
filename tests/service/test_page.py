"""The page in a real browser: headless Chromium against the real application, queue and worker."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.auth import Keys
from tests.service.conftest import Starter
from tests.service.harness import Service
from tests.service.web import Api, served, told

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from playwright.sync_api import Browser, Page, expect  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SECONDS = 1000.0
expect.set_options(timeout=20 * SECONDS)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium to run the page in"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with playwright.sync_playwright() as runner:
        browser = runner.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A service whose worker does as it is told by the models."""
    service = Service(tmp_path_factory.mktemp("page"), max_upload_bytes=1 << 20)
    service.worker()
    with served(service.settings) as api:
        yield api
    service.close()


@pytest.fixture(autouse=True)
def empty(api: Api) -> Iterator[None]:
    """Every test begins without conversions."""
    yield
    for conversion in api.get("/v1/conversions").json()["conversions"]:
        api.delete(conversion["links"]["self"])


@pytest.fixture
def page(browser: Browser, api: Api) -> Iterator[Page]:
    with opened(browser, api) as page:
        yield page


@contextmanager
def opened(browser: Browser, api: Api) -> Iterator[Page]:
    """The page, which may log no error and ask no other host for anything."""
    complaints: list[str] = []
    context = browser.new_context(base_url=str(api.base_url))
    context.set_default_timeout(20 * SECONDS)
    context.on("weberror", lambda error: complaints.append(str(error.error)))
    context.on("console", lambda line: complaints.append(line.text) if line.type == "error" else None)
    context.on("request", lambda request: complaints.append(request.url) if _is_foreign(request.url, api) else None)
    yield context.new_page()
    context.close()
    assert complaints == []


def _is_foreign(url: str, api: Api) -> bool:
    return not url.startswith((str(api.base_url), "blob:", "data:"))


def choose(page: Page, name: str, content: bytes) -> None:
    page.set_input_files("#file", {"name": name, "mimeType": "application/octet-stream", "buffer": content})


def convert(page: Page, name: str, content: bytes) -> str:
    """The file was chosen and sent; its id."""
    page.goto("/")
    choose(page, name, content)
    page.get_by_role("button", name="Convert", exact=True).click()
    expect(page.locator("#conversion")).to_be_visible()
    return page.url.rsplit("/", 1)[1]


def network() -> bytes:
    """A small convolutional classifier with batch normalization, weights from a fixed seed."""
    random = np.random.default_rng(0)

    def weights(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(random.normal(0, 0.2, shape).astype(np.float32), name)

    def positive(name: str, size: int) -> onnx.TensorProto:
        return numpy_helper.from_array(random.uniform(0.5, 1.5, size).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["c1"], name="conv1", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c1", "scale", "bias", "mean", "var"], ["b1"], name="norm1"),
        helper.make_node("Relu", ["b1"], ["r1"], name="relu1"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], name="conv2", strides=[2, 2]),
        helper.make_node("Relu", ["c2"], ["r2"], name="relu2"),
        helper.make_node("GlobalAveragePool", ["r2"], ["pooled"], name="pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], name="flatten"),
        helper.make_node("Gemm", ["flat", "w3", "b3"], ["logits"], name="head", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 10])],
        [
            weights("w1", 16, 3, 3, 3), weights("w2", 32, 16, 3, 3), weights("w3", 10, 32), weights("b3", 10),
            positive("scale", 16), weights("bias", 16), weights("mean", 16), positive("var", 16),
        ],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def test_a_real_model_from_upload_to_report(browser: Browser, start: Starter) -> None:
    service = start()
    service.worker(command=("converter", "convert"))
    with served(service.settings) as api, opened(browser, api) as page:
        _submit_watch_and_download(page)


def _submit_watch_and_download(page: Page) -> None:
    page.goto("/")
    choose(page, "small.onnx", network())
    expect(page.locator("#drop-title")).to_have_text("small.onnx")
    page.get_by_label("Time budget").fill("2")
    page.get_by_text("More options").click()
    page.get_by_label("Samples").fill("8")
    page.get_by_label("bias-correction").check()
    page.get_by_role("button", name="Convert", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("small.onnx")
    expect(page.locator("#status")).to_have_text("succeeded", timeout=120 * SECONDS)
    with page.expect_download() as download:
        page.get_by_role("link", name="INT8 model").click()
    assert download.value.suggested_filename == "small.int8.onnx"
    converted = onnx.load(download.value.path())
    assert any(node.op_type == "DequantizeLinear" for node in converted.graph.node)
    report = page.frame_locator("#report")
    expect(report.locator("h1")).to_contain_text("se it")  # the verdict, whichever
    expect(report.locator("body")).to_contain_text("smaller")
    tall = page.locator("#report").evaluate(
        "frame => frame.clientHeight >= frame.contentDocument.body.scrollHeight - 1"
    )
    assert tall
    options = page.evaluate("async () => (await (await fetch('/v1/conversions')).json()).conversions[0].options")
    assert (options["time_budget"], options["samples"], options["skip"]) == (2, 8, ["bias-correction"])


def test_a_refused_model_names_the_place(page: Page) -> None:
    convert(page, "odd.onnx", told(then="refuse"))
    failure = page.get_by_role("alert").filter(has_text="No such operator.")
    expect(failure).to_contain_text("Foo")
    expect(failure).to_contain_text("n1")
    expect(page.locator("#status")).to_have_text("failed")
    page.get_by_role("link", name="All conversions").click()
    expect(page.locator("#past")).to_contain_text("No such operator.")


def test_progress_then_cancel_then_delete_by_keyboard(page: Page) -> None:
    convert(page, "slow.onnx", told(seconds=60))
    expect(page.locator("#stages [aria-current=step]")).to_have_text("synthesis")
    expect(page.locator("#message")).to_have_text("synthesis 0.5")
    expect(page.locator("#news")).to_have_text(re.compile("synthesis"))
    page.get_by_role("button", name="Cancel").focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Cancel slow.onnx?")
    expect(page.get_by_role("button", name="Keep it")).to_be_focused()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_have_text("cancelled")
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Delete it").click()
    expect(page.locator("#home")).to_be_visible()
    expect(page.locator("#nothing")).to_be_visible()


def test_escape_keeps_the_conversion(page: Page) -> None:
    convert(page, "kept.onnx", told(seconds=60))
    page.get_by_role("button", name="Cancel").click()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).not_to_be_visible()
    expect(page.locator("#status")).to_have_text("running")


def test_a_reload_in_the_middle_goes_on_watching(page: Page) -> None:
    convert(page, "long.onnx", told(seconds=1.2))
    expect(page.locator("#status")).to_have_text("running")
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_have_text("long.onnx")
    expect(page.locator("#status")).to_have_text("succeeded")
    expect(page.frame_locator("#report").locator("h1")).to_be_visible()


def test_two_tabs_tell_the_same(page: Page) -> None:
    page.goto("/")
    other = page.context.new_page()
    conversion = convert(other, "shared.onnx", told(seconds=0.8))
    entry = page.locator(f"#past li[data-id='{conversion}']")
    expect(entry.locator("a")).to_have_text("shared.onnx")
    third = page.context.new_page()
    third.goto(f"/#/{conversion}")
    for tab in (other, third):
        expect(tab.locator("#status")).to_have_text("succeeded")
    page.bring_to_front()
    expect(entry.locator(".pill")).to_have_text("succeeded")
    other.get_by_role("button", name="Delete").click()
    other.get_by_role("button", name="Delete it").click()
    expect(other.locator("#home")).to_be_visible()
    expect(entry).to_have_count(0)


def test_a_file_dropped_anywhere_is_taken(api: Api, page: Page) -> None:
    page.goto("/")
    page.evaluate(
        """() => {
            const data = new DataTransfer();
            data.items.add(new File(["{}"], "dropped.onnx"));
            for (const kind of ["dragenter", "dragover", "drop"])
                document.body.dispatchEvent(new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true}));
        }"""
    )
    expect(page.locator("#drop-title")).to_have_text("dropped.onnx")
    page.keyboard.press("Enter")  # Convert has the focus
    expect(page.locator("#conversion")).to_be_visible()
    assert api.get("/v1/conversions").json()["conversions"][0]["model"]["name"] == "dropped.onnx"


def test_several_files_are_converted_compared_and_converted_again(api: Api, page: Page) -> None:
    page.goto("/")
    files = [
        {"name": f"{name}.onnx", "mimeType": "application/octet-stream", "buffer": told(name=name)} for name in "ab"
    ]
    page.set_input_files("#file", files)  # type: ignore[arg-type]  # of two files there is no look before
    expect(page.locator("#drop-title")).to_have_text("2 models")
    page.get_by_role("button", name="Convert", exact=True).click()
    expect(page.locator("#past li")).to_have_count(2)
    expect(page.locator("#past .pill", has_text="succeeded")).to_have_count(2, timeout=90 * SECONDS)
    for pick in page.locator(".pick").all():
        pick.check()
    page.get_by_role("button", name="Compare 2").click()
    expect(page.locator("#compared th[scope=col]")).to_have_count(2)
    expect(page.locator("#compared")).to_contain_text("Predicted change of accuracy")
    page.get_by_role("link", name="a.onnx").click()
    page.get_by_role("button", name="Convert again with…").click()
    expect(page.locator("#again-note")).to_contain_text("a.onnx again")
    page.get_by_text("More options").click()
    page.get_by_label("Seed").fill("5")
    page.get_by_role("button", name="Convert", exact=True).click()
    expect(page.locator("#facts")).to_contain_text("seed 5")
    assert api.get("/v1/conversions").json()["conversions"][0]["options"]["seed"] == 5


def test_a_filter_narrows_the_list(page: Page) -> None:
    convert(page, "wanted.onnx", told(then="refuse"))
    page.goto("/")
    expect(page.locator("#past li")).to_have_count(1)
    page.get_by_label("Filter").fill("other")
    expect(page.locator("#past li").first).to_be_hidden()
    page.get_by_label("Filter").fill("WANTED")
    expect(page.locator("#past li").first).to_be_visible()


def test_mistakes_are_told_beside_the_form(page: Page) -> None:
    page.goto("/")
    page.get_by_role("button", name="Convert", exact=True).click()
    refusal = page.locator("#refusal")
    expect(refusal).to_have_text("Choose a model first.")
    choose(page, "n.onnx", told())
    page.get_by_label("Time budget").fill("0")
    page.get_by_role("button", name="Convert", exact=True).click()
    expect(refusal).to_contain_text("Time budget")
    page.get_by_label("Time budget").fill("60")
    page.get_by_label("Method").select_option("noise")
    expect(page.locator("#method-note")).to_contain_text("noise")
    expect(page.locator("#home")).to_be_visible()


def test_a_file_that_is_too_large_is_not_sent(page: Page) -> None:
    page.goto("/")
    choose(page, "huge.onnx", b"x" * (11 << 17))
    expect(page.locator("#refusal")).to_contain_text("takes up to 1.05 MB")


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_fits_every_width_and_has_contrast(page: Page, api: Api, width: int, scheme: str) -> None:
    api.submit(b"x", name="a_rather_long_name_of_a_model_that_somebody_exported_at_some_time.onnx")
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    page.set_viewport_size({"width": width, "height": 800})
    page.goto("/")
    page.get_by_text("More options").click()
    expect(page.locator("#past li")).to_have_count(1)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("input, select, textarea, button, a")]
            .filter(each => each.checkVisibility())
            .filter(each => !(each.labels?.length || each.ariaLabel || each.textContent.trim()))
            .map(each => each.outerHTML)"""
    )
    assert unnamed == []
    for place in ("body", ".past .note", ".pill", "button.primary"):
        assert page.evaluate(CONTRAST, place) >= 4.5, place
    page.locator("#past a").click()
    expect(page.locator("#conversion")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


CONTRAST = """(place) => {
    const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
    const rgb = (color) => {
        canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const light = (color) => {
        const [r, g, b] = color.map(c => c / 255).map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const shown = document.querySelector(place);
    let behind = shown;
    while (rgb(getComputedStyle(behind).backgroundColor)[3] < 255) behind = behind.parentElement;
    const a = light(rgb(getComputedStyle(shown).color)), b = light(rgb(getComputedStyle(behind).backgroundColor));
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}"""


def test_signing_in_where_keys_are_asked_for(browser: Browser, start: Starter) -> None:
    service = start(auth=True)
    secret = Keys(service.jobs.database).create("ann").secret
    service.worker()
    with served(service.settings) as api:
        context = browser.new_context(base_url=str(api.base_url))
        context.set_default_timeout(20 * SECONDS)
        page = context.new_page()
        page.goto("/")
        page.get_by_role("textbox", name="API key").fill("zsq_wrong")
        page.get_by_role("button", name="Sign in").click()
        expect(page.locator("#key-problem")).to_contain_text("does not work")
        page.get_by_role("textbox", name="API key").fill(secret)
        page.get_by_role("button", name="Sign in").click()
        expect(page.locator("#nothing")).to_be_visible()
        convert(page, "mine.onnx", told(seconds=0.2))
        expect(page.frame_locator("#report").locator("h1")).to_be_visible()
        assert secret not in page.evaluate("document.cookie")
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("dialog")).to_be_visible()
        context.close()


def test_the_documentation_is_a_page_too(page: Page) -> None:
    page.goto("/docs")
    expect(page.get_by_role("heading", name="POST /v1/conversions", exact=True)).to_be_visible()
    page.get_by_role("link", name="ConversionOptions").first.click()
    expect(page.locator("#ConversionOptions")).to_contain_text("time_budget")
