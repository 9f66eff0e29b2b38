"""Fetching MovieLens-100K from a local server, and what `--data movie` does with or without a network."""

import http.server
import io
import threading
import zipfile

import pytest

import data.download as download
import data.load as load
from data.download import NoNetwork, fetch_movielens_100k
from data.interactions import DataError


class Reply:
    """What the server answers: body, what Content-Length says of it (None: nothing), status, Location."""

    def __init__(self, body=b"", length=..., status=200, location=None, chunked=False):
        self.body, self.status, self.location, self.chunked = body, status, location, chunked
        self.length = len(body) if length is ... else length


@pytest.fixture
def serve(monkeypatch):
    """serve({path: Reply}): the address of a server on this machine."""
    monkeypatch.setenv("no_proxy", "*")
    servers = []

    def start(replies):
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                reply = replies[self.path]
                if reply.body == b"no http at all":
                    self.wfile.write(reply.body + b"\r\n\r\n")
                    self.close_connection = True
                    return
                self.send_response(reply.status)
                if reply.chunked:
                    self.send_header("Transfer-Encoding", "chunked")
                elif reply.length is not None:
                    self.send_header("Content-Length", str(reply.length))
                if reply.location:
                    self.send_header("Location", reply.location)
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(reply.body)
                self.close_connection = True

            def log_message(self, *args):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def archive(members, folder="ml-100k/"):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(folder + name, content)
    return buffer.getvalue()


@pytest.fixture
def real_members(real_file):
    return {name: real_file(f"ml-100k/{name}").read_bytes() for name in ("u.data", "u.item", "README")}


INVENTED = {"u.data": b"1\t1\t5\t100\n" * 500, "u.item": b"1|Invented (1990)|\n" * 500, "README": b"none"}


def refused(exception, url, tmp_path):
    """The message of the refusal; nothing must be left behind."""
    with pytest.raises(exception) as refusal:
        fetch_movielens_100k(tmp_path / "cache" / "ml-100k", url)
    left = list(tmp_path.rglob("*"))
    assert left == [], f"left behind: {left}"
    assert url in str(refusal.value)
    return str(refusal.value)


# ---- the published archive ----------------------------------------------------------------------


def test_the_published_archive_gives_its_three_files_and_no_other(serve, tmp_path, real_members):
    body = archive({**real_members, "u.user": b"1|24|M|technician|85711\n", "../../escaped": b"x"})
    fetch_movielens_100k(tmp_path / "cache" / "ml-100k", serve({"/x.zip": Reply(body)}) + "/x.zip")
    assert {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == real_members
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["ml-100k"]


def test_a_redirect_is_followed_and_no_length_is_needed(serve, tmp_path, real_members):
    replies = {"/x.zip": Reply(status=302, location="/y.zip"), "/y.zip": Reply(archive(real_members), length=None)}
    fetch_movielens_100k(tmp_path / "ml-100k", serve(replies) + "/x.zip")
    assert (tmp_path / "ml-100k" / "u.data").read_bytes() == real_members["u.data"]


def test_u_data_comes_last_since_its_presence_means_all_is_there(serve, tmp_path, real_members, monkeypatch):
    placed = []
    replace = download.os.replace
    monkeypatch.setattr(download.os, "replace", lambda a, b: (placed.append(b.name), replace(a, b)))
    fetch_movielens_100k(tmp_path / "ml-100k", serve({"/x.zip": Reply(archive(real_members))}) + "/x.zip")
    assert sorted(placed) == ["README", "u.data", "u.item"] and placed[-1] == "u.data"


def test_a_changed_byte_is_refused_by_the_file_it_is_in(serve, tmp_path, real_members):
    real_members["u.item"] = real_members["u.item"][:-1] + b"?"
    url = serve({"/x.zip": Reply(archive(real_members))}) + "/x.zip"
    assert "its u.item is not the published file (md5 differs)" in refused(DataError, url, tmp_path)


# ---- what is not it -----------------------------------------------------------------------------


def test_another_archive_with_the_same_names_is_refused(serve, tmp_path):
    url = serve({"/x.zip": Reply(archive(INVENTED))}) + "/x.zip"
    assert "its u.data is not the published file (md5 differs)" in refused(DataError, url, tmp_path)


WHOLE = archive(INVENTED)
DAMAGED_DATA = WHOLE[:43] + bytes(byte ^ 0x5A for byte in WHOLE[43:60]) + WHOLE[60:]
NOT_THE_ARCHIVE = {
    "a login page": b"<html><body>Please log in</body></html>",
    "nothing": b"",
    "half an archive": WHOLE[: len(WHOLE) // 2],
    "damaged compressed data": DAMAGED_DATA,
    "members elsewhere": archive(INVENTED, folder="other/"),
    "a member missing": archive({"u.data": b"x"}),
}


@pytest.mark.parametrize("body", NOT_THE_ARCHIVE.values(), ids=NOT_THE_ARCHIVE)
def test_anything_but_the_archive_is_refused(serve, tmp_path, body):
    url = serve({"/x.zip": Reply(body)}) + "/x.zip"
    assert "not the MovieLens-100K archive" in refused(DataError, url, tmp_path)


def test_no_damage_to_an_archive_gets_past_as_another_error(serve, tmp_path):
    url = serve({f"/{at}": Reply(WHOLE[:at] + b"\xff" + WHOLE[at + 1 :]) for at in range(0, len(WHOLE), 3)})
    for at in range(0, len(WHOLE), 3):
        refused(DataError, f"{url}/{at}", tmp_path)


@pytest.mark.parametrize("length", [..., None], ids=["announced", "not announced"])
def test_more_bytes_than_the_limit_are_refused(serve, tmp_path, monkeypatch, length):
    monkeypatch.setattr(download, "LARGEST_ARCHIVE", 70_000)
    url = serve({"/x.zip": Reply(b"0" * 200_000, length)}) + "/x.zip"
    assert "sends more than 70,000 bytes" in refused(DataError, url, tmp_path)


# ---- a network that fails -----------------------------------------------------------------------


def test_a_cut_connection_says_how_far_it_came(serve, tmp_path):
    url = serve({"/x.zip": Reply(b"0" * 500, length=900)}) + "/x.zip"
    assert "connection cut after 500 of 900 bytes" in refused(NoNetwork, url, tmp_path)


FAILURES = {
    "cut within a chunk": Reply(b"ffff\r\nonly this", chunked=True),
    "no http at all": Reply(b"no http at all"),
    "404": Reply(b"gone", status=404),
    "503": Reply(b"later", status=503),
    "redirect in a circle": Reply(status=302, location="/x.zip"),
    "redirect to a file": Reply(status=302, location="file:///etc/hostname"),
}


@pytest.mark.parametrize("reply", FAILURES.values(), ids=FAILURES)
def test_a_server_that_does_not_deliver_is_no_network(serve, tmp_path, reply):
    refused(NoNetwork, serve({"/x.zip": reply}) + "/x.zip", tmp_path)


def test_no_server_is_no_network(serve, tmp_path):
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        port = server.server_address[1]
    refused(NoNetwork, f"http://127.0.0.1:{port}/x.zip", tmp_path)


def test_a_server_that_falls_silent_is_no_network(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as silent:  # never serves
        refused(NoNetwork, f"http://127.0.0.1:{silent.server_address[1]}/x.zip", tmp_path)


# ---- --data movie -------------------------------------------------------------------------------


@pytest.fixture
def notices():
    return []


@pytest.fixture
def no_network(monkeypatch):
    def fail(folder):
        raise NoNetwork("http://invented: unreachable")

    monkeypatch.setattr(load, "fetch_movielens_100k", fail)


def test_without_network_the_stand_in_says_that_it_stands_in(tmp_path, monkeypatch, notices, no_network):
    monkeypatch.setenv("LCFT_DATA", str(tmp_path))
    data = load.load_dataset("movie", None, False, notices.append)
    assert (data.name, data.source) == ("movie", "stand-in")
    assert "downloading it from GroupLens" in notices[0]
    assert notices[1].startswith("STAND-IN DATA: ") and str(tmp_path / "ml-100k") in notices[1]
    assert len(notices) == 2


def test_the_stand_in_is_refused_when_real_data_is_asked_for(tmp_path, monkeypatch, notices, no_network):
    monkeypatch.setenv("LCFT_DATA", str(tmp_path))
    with pytest.raises(DataError, match="no MovieLens-100K in .*unreachable.*put u.data and u.item there"):
        load.load_dataset("movie", None, True, notices.append)
    with pytest.raises(DataError, match="--data demo: is simulated"):
        load.load_dataset("demo", None, True, notices.append)


def test_the_stand_in_is_refused_when_a_folder_was_named(tmp_path, notices, no_network):
    with pytest.raises(DataError, match="put u.data and u.item there"):
        load.load_dataset("movie", str(tmp_path), False, notices.append)


def test_a_real_model_is_never_given_the_stand_in(tmp_path, monkeypatch, no_network):
    from runtime.setup import load_data

    monkeypatch.setenv("LCFT_DATA", str(tmp_path))
    assert load_data("movie", None, "demo", False).source == "stand-in"
    with pytest.raises(DataError, match="no MovieLens-100K"):
        load_data("movie", None, "llama-7b", False)


def test_a_wrong_archive_is_an_error_and_no_reason_for_the_stand_in(tmp_path, monkeypatch, notices, serve):
    monkeypatch.setenv("LCFT_DATA", str(tmp_path))
    url = serve({"/x.zip": Reply(b"<html>")}) + "/x.zip"
    monkeypatch.setattr(load, "fetch_movielens_100k", lambda folder: fetch_movielens_100k(folder, url))
    with pytest.raises(DataError, match="not the MovieLens-100K archive"):
        load.load_dataset("movie", None, False, notices.append)


def test_a_download_is_used_and_found_again_the_next_time(tmp_path, monkeypatch, notices, serve, real_members):
    monkeypatch.setenv("LCFT_DATA", str(tmp_path / "new"))
    url = serve({"/x.zip": Reply(archive(real_members))}) + "/x.zip"
    monkeypatch.setattr(load, "fetch_movielens_100k", lambda folder: fetch_movielens_100k(folder, url))
    assert load.load_dataset("movie", None, True, notices.append).source == "movielens-100k"
    monkeypatch.setattr(load, "fetch_movielens_100k", None)  # must not be called again
    assert load.load_dataset("movie", None, True, notices.append).source == "movielens-100k"
    assert len(notices) == 1


def test_files_are_found_in_the_named_folder_or_its_ml_100k(real_file, notices):
    folder = real_file("ml-100k/u.data").parent
    for data_dir in (folder, folder.parent):
        assert load.load_dataset("movie", str(data_dir), True, notices.append).source == "movielens-100k"
    assert notices == []


@pytest.mark.parametrize("name, data_dir, named", [("movie", "absent", "--data-dir"), ("absent", None, "--data absent")])
def test_a_folder_that_is_not_there_is_named_with_its_flag(tmp_path, monkeypatch, notices, name, data_dir, named):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=f"^{named}.*: .*no (such )?folder"):
        load.load_dataset(name, data_dir, False, notices.append)
