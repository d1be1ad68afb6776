"""scripts/web_app.py as its user meets it: a server of its own, Chromium, small networks."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import requests
import skimage.data
from PIL import Image, ImageCms
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from scripts import restore
from scripts.make_demo import degrade
from tests.helpers.face_restorer import small_restorer
from tests.helpers.small_networks import small_generator, small_masknet
from tests.helpers.workplace import picture, write
from utils.face.restorers import save_face_restorer
from utils.image.io import read_image
from utils.weights.checkpoints import checkpoint_tensors, write_tf1_checkpoint

ROOT = Path(__file__).parents[2]
SERVER = [sys.executable, str(ROOT / "scripts" / "web_app.py")]
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
PATIENCE = 180  # seconds


class Server:
    """A running page and what it printed."""

    def __init__(self, root):
        for name in ("model", "other"):
            write_tf1_checkpoint(root / name, checkpoint_tensors(small_generator(), small_masknet()))
        save_face_restorer(root / "restorer.npz", small_restorer())
        self.networks = ["--model_dir", str(root / "model"), "--restorer", str(root / "restorer.npz")]
        self._log = root / "log"
        (root / "temporary").mkdir()
        self.temporary = root / "temporary"
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [*SERVER, *self.networks, "--port", "0", "--baseline", str(root / "other"), "--max_mib", "1",
                 "--max_megapixels", "0.1"], stdout=log, stderr=subprocess.STDOUT,
                env=os.environ | {"TMPDIR": str(self.temporary)})
        deadline = time.monotonic() + PATIENCE
        while "open http" not in self.log():
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.1)
        self.url = self.log().split("open ")[1].split()[0]

    def log(self):
        return self._log.read_text()


class Page:
    """The page in Chromium, by what a user sees of it."""

    def __init__(self, url, downloads):
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium")
        for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "window-size=1280,1400"):
            options.add_argument(f"--{argument}")
        options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        service = webdriver.ChromeService(shutil.which("chromedriver"))
        self.driver, self._url, self._downloads = webdriver.Chrome(options, service), url, downloads

    def wait(self, condition):
        return WebDriverWait(self.driver, PATIENCE, 0.1).until(lambda _: condition())

    def upload(self, path):
        """Open the page anew and upload a file."""
        self.driver.get(self._url)
        self.wait(lambda: self.driver.find_elements(By.CSS_SELECTOR, "input[type=file]"))[0].send_keys(str(path))

    @property
    def status(self):
        return self.driver.find_element(By.TAG_NAME, "textarea").get_attribute("value")

    def message(self):
        """Return the text of an error once there is one."""
        return self.wait(lambda: " ".join(
            toast.text for toast in self.driver.find_elements(By.CSS_SELECTOR, "[data-testid=toast-body]")))

    def source(self, name):
        """Return the address of a picture; None while it is not there."""
        return next((address for image in self.driver.find_elements(By.TAG_NAME, "img")
                     if (address := image.get_attribute("src") or "").endswith(name)), None)

    def set_face_weight(self, weight):
        field = self.driver.find_element(By.CSS_SELECTOR, "input[type=number]")
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(str(weight), Keys.TAB)

    def download(self):
        """Click the button and return the file that arrives."""
        for earlier in self._downloads.iterdir():
            earlier.unlink()
        self.driver.find_element(By.XPATH, "//*[self::a or self::button][contains(., 'Download (PNG)')]").click()
        return self.wait(lambda: next((path for path in self._downloads.glob("*.png") if path.stat().st_size
                                       and not list(self._downloads.glob("*.crdownload"))), None))

    def other_hosts(self):
        """Return the hosts of all requests so far but the page's own."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        addresses = [event["params"]["request"]["url"] for event in events
                     if event["method"] == "Network.requestWillBeSent"]
        assert addresses
        return {urlsplit(address).netloc for address in addresses} - {urlsplit(self._url).netloc, ""}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.process.kill()
    server.process.wait()


@pytest.fixture(scope="module")
def page(server, tmp_path_factory):
    page = Page(server.url, tmp_path_factory.mktemp("downloads"))
    yield page
    page.driver.quit()


def pixels_of(address):
    return np.asarray(Image.open(requests.get(address, stream=True, timeout=10).raw).convert("RGB"))


def test_a_photo_is_restored_as_by_restore_and_its_face_weight_costs_no_second_restoration(server, page, tmp_path):
    photo = tmp_path / "portrait.png"
    Image.fromarray(degrade(skimage.data.astronaut())).save(photo, icc_profile=PROFILE)
    page.upload(photo)
    page.wait(lambda: "adapted" in page.status)
    assert page.status.startswith("512x512 pixels; 1 face")
    boxes = (pixels_of(page.source("faces.png")) == [0, 255, 0]).all(axis=2).nonzero()
    assert np.allclose([axis.min() for axis in boxes], [6 * 15, 6 * 45], atol=20)  # of the astronaut's face
    assert np.allclose([axis.max() for axis in boxes], [6 * 43, 6 * 66], atol=20)
    before, after = (pixels_of(page.source(name)) for name in ("before.jpg", "after.jpg"))
    assert before.shape == after.shape == (512, 512, 3)
    for weight in ("1", "0.25"):
        if weight != "1":
            shown = page.source("after.jpg")
            page.set_face_weight(weight)
            page.wait(lambda shown=shown: page.source("after.jpg") not in (shown, None))
        assert restore.main([str(photo), "-o", str(tmp_path / weight), *server.networks, "--face_weight", weight]) == 0
        expected = tmp_path / weight / "portrait.png"
        result = page.download()
        assert result.name == "portrait_x4.png"
        assert result.read_bytes() == expected.read_bytes()
        assert Image.open(result).info["icc_profile"] == PROFILE
    assert server.log().count("portrait.png: adapted, 1 face") == 1
    shown = page.source("before.jpg")
    page.driver.find_element(By.XPATH, "//label[contains(., 'other')]").click()
    page.wait(lambda: page.source("before.jpg") not in (shown, None))
    assert np.abs(pixels_of(page.source("before.jpg")).astype(int) - before).max() > 10
    assert server.log().count("portrait.png: adapted, 1 face") == 1
    assert page.other_hosts() == set()


def write_odd_photos(folder):
    """Write photos without a face, of kinds that are not plain 8-bit RGB."""
    small = picture(1, 20, 30)
    exif = Image.Exif()
    exif[274] = 6
    write(folder / "gray.png", picture(2, 20, 30, channels=1))
    write(folder / "deep.tif", picture(3, 20, 30, dtype=np.uint16))
    write(folder / "cut.png", picture(4, 20, 30, channels=4))
    Image.fromarray(small).save(folder / "turned.jpg", exif=exif)
    Image.fromarray(small).save(folder / "moving.gif", save_all=True, append_images=[Image.fromarray(255 - small)])
    Image.fromarray(small).save(folder / "phone.heic")


@pytest.mark.parametrize(("name", "size", "channels", "bits"), [
    ("gray.png", (120, 80), 1, 8), ("deep.tif", (120, 80), 3, 16), ("cut.png", (120, 80), 4, 8),
    ("turned.jpg", (80, 120), 3, 8), ("moving.gif", (120, 80), 3, 8), ("phone.heic", (120, 80), 3, 8)])
def test_a_photo_of_any_kind_without_a_face_is_upscaled(page, tmp_path, name, size, channels, bits):
    write_odd_photos(tmp_path)
    page.upload(tmp_path / name)
    page.wait(lambda: page.status.startswith(f"{size[0]}x{size[1]} pixels; 0 faces"))
    result = read_image(page.download())
    assert result.pixels.shape[1::-1] == size
    assert (1 if result.gray else 3) + (result.alpha is not None) == channels
    assert result.bit_depth == bits


@pytest.mark.parametrize(("name", "message"), [
    ("broken.jpg", "broken.jpg"), ("notes.txt", "notes.txt"), ("huge.png", "100 megapixels, more than the 0.1"),
    ("heavy.png", "size of 1.0 Mb")])
def test_a_file_that_is_not_taken_is_named_in_one_sentence(server, page, tmp_path, name, message):
    Image.fromarray(picture(1, 64, 64)).save(tmp_path / "whole.jpg")
    (tmp_path / "broken.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:700])
    (tmp_path / "notes.txt").write_text("no photo")
    Image.new("1", (10_000, 10_000)).save(tmp_path / "huge.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 300, 4), np.uint8)).resize((700, 700)).save(
        tmp_path / "heavy.png")
    assert (tmp_path / "heavy.png").stat().st_size > 2**20
    page.upload(tmp_path / name)
    shown = page.message()
    assert message in shown
    assert name in shown
    assert str(server.temporary) not in shown
    assert page.status == ""
    assert "Traceback" not in server.log()


def test_a_port_in_use_is_one_line(server):
    port = str(urlsplit(server.url).port)
    done = subprocess.run([*SERVER, "--port", port], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"--port {port}" in done.stderr


def test_ctrl_c_ends_the_page_that_is_still_open_and_leaves_no_photo(server, page):
    assert list(server.temporary.iterdir())
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(timeout=20) == 0
    assert not list(server.temporary.iterdir())
    assert "Traceback" not in server.log()
