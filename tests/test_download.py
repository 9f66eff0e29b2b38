"""Downloads from a local server that cuts, lies and redirects, and `--data movie` without a network."""

import hashlib
import http.server
import io
import multiprocessing
import threading
import zipfile

import pytest

import data.download as download
import data.load as load
from data.download import Archive, NoNetwork, fetch
from errors import DataError


class Reply:
    """What the server answers: body, what Content-Length says of it (None: nothing), status, Location.

    ranges: whether it knows them; cut: bytes after which each connection breaks off.
    """

    def __init__(self, body=b"", length=..., status=200, location=None, chunked=False, ranges=False, cut=None):
        self.body, self.status, self.location, self.chunked = body, status, location, chunked
        self.length, self.ranges, self.cut = len(body) if length is ... else length, ranges, cut
        self.asked = []  # Range of each request
        self.sent = 0  # bytes


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        reply, wanted = self.server.replies[self.path], self.headers.get("Range")
        reply.asked.append(wanted)
        self.close_connection = True
        if reply.body == b"no http at all":
            self.wfile.write(reply.body + b"\r\n\r\n")
            return
        body, status = reply.body, reply.status
        if wanted and reply.ranges:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            body, status = (body[start:], 206) if start < len(body) else (b"", 416)
        self.send_response(status)
        if reply.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif reply.length is not None:
            self.send_header("Content-Length", str(len(body) if status in (206, 416) else reply.length))
        if reply.location:
            self.send_header("Location", reply.location)
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body[: reply.cut])
        reply.sent += len(body[: reply.cut])

    def log_message(self, *args):
        pass


@pytest.fixture
def serve(monkeypatch):
    """serve({path: Reply}): the address of a server on this machine."""
    monkeypatch.setenv("no_proxy", "*")
    servers = []

    def start(replies):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.replies = replies
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def archive(members, folder="inv/"):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as file:
        for name, content in members.items():
            file.writestr(folder + name, content)
    return buffer.getvalue()


CONTENT = {"README": b"none", "u.item": b"1|Invented (1990)|\n" * 500, "u.data": b"1\t1\t5\t100\n" * 5000}
WHOLE = archive(CONTENT)
MEMBERS = {f"inv/{name}": name for name in CONTENT}


def source(url, body=WHOLE, members=MEMBERS):
    return Archive("Invented-1K", url, hashlib.md5(body).hexdigest(), members)


def files(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(exception, url, tmp_path, left=()):
    """The message of the refusal; nothing must be left behind but `left`."""
    with pytest.raises(exception) as refusal:
        fetch(source(url), tmp_path / "cache" / "inv")
    assert sorted(path.name for path in tmp_path.rglob("*")) == sorted(["cache", *left])
    assert url in str(refusal.value)
    return str(refusal.value)


PART = ".inv.zip.part"

# ---- the published archive ----------------------------------------------------------------------


def test_the_published_archive_gives_its_files_and_no_other(serve, tmp_path):
    body = archive({**CONTENT, "u.user": b"1|24|M\n", "../../escaped": b"x", "/absolute": b"x"})
    fetch(source(serve({"/x.zip": Reply(body)}) + "/x.zip", body), tmp_path / "cache" / "inv")
    assert files(tmp_path) == CONTENT
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["inv"]


def test_a_redirect_is_followed_and_no_length_is_needed(serve, tmp_path):
    replies = {"/x.zip": Reply(status=302, location="/y.zip"), "/y.zip": Reply(WHOLE, length=None)}
    fetch(source(serve(replies) + "/x.zip"), tmp_path / "inv")
    assert files(tmp_path) == CONTENT


def test_the_last_member_comes_last_since_its_presence_means_all_is_there(serve, tmp_path, monkeypatch):
    placed = []
    replace = download.os.replace
    monkeypatch.setattr(download.os, "replace", lambda a, b: (placed.append(b.name), replace(a, b)))
    fetch(source(serve({"/x.zip": Reply(WHOLE)}) + "/x.zip"), tmp_path / "inv")
    assert sorted(placed) == sorted(CONTENT) and placed[-1] == "u.data"


def test_movielens_sources_are_grouplens_over_https_with_the_data_last():
    for name, last in (("movie", "u.data"), ("ml-1m", "ratings.dat")):
        archive_of = load.SOURCES[name].archive
        assert archive_of.url.startswith("https://files.grouplens.org/") and len(bytes.fromhex(archive_of.md5)) == 16
        assert list(archive_of.members.values())[-1] == last and "README" in archive_of.members.values()


@pytest.mark.parametrize(
    "name, words",
    [
        ("book", ["BX-Books.csv", "Ratings.csv", "licence"]),
        ("amazon-book", ["Books_5.json.gz", "meta_Books.json.gz", "https://"]),
    ],
)
def test_the_manual_steps_name_the_files_and_where_to_put_them(name, words):
    message = load.SOURCES[name].by_hand.format(folder="/some/where")
    assert all(word in message for word in [*words, f"/some/where/{name}", "(1)", "(2)", "(3)"]) and "\n" not in message


# ---- resuming -----------------------------------------------------------------------------------


def test_a_cut_connection_resumes_where_it_was_cut(serve, tmp_path):
    reply = Reply(WHOLE, ranges=True, cut=len(WHOLE) // 2 + 1)
    fetch(source(serve({"/x.zip": reply}) + "/x.zip"), tmp_path / "inv")
    assert files(tmp_path) == CONTENT
    assert reply.asked == [None, f"bytes={len(WHOLE) // 2 + 1}-"] and reply.sent == len(WHOLE)


def test_after_three_cuts_the_part_is_kept_and_the_next_call_fetches_only_the_rest(serve, tmp_path):
    reply = Reply(WHOLE, ranges=True, cut=1000)
    url = serve({"/x.zip": reply}) + "/x.zip"
    message = refused(NoNetwork, url, tmp_path, left=[PART])
    assert f"connection cut after 3,000 of {len(WHOLE):,} bytes; 3,000 bytes are kept" in message
    reply.cut = None
    fetch(source(url), tmp_path / "cache" / "inv")
    assert files(tmp_path) == CONTENT and reply.sent == len(WHOLE) and reply.asked[-1] == "bytes=3000-"


def test_a_server_that_knows_no_ranges_sends_all_again(serve, tmp_path):
    (tmp_path / PART).write_bytes(WHOLE[:700])
    reply = Reply(WHOLE)
    fetch(source(serve({"/x.zip": reply}) + "/x.zip"), tmp_path / "inv")
    assert files(tmp_path) == CONTENT and reply.sent == len(WHOLE)


@pytest.mark.parametrize(
    "stale", [b"x" * 700, b"x" * len(WHOLE), b"x" * (len(WHOLE) + 9)], ids=["shorter", "as long", "longer"]
)
def test_a_part_of_another_archive_is_thrown_away(serve, tmp_path, stale):
    (tmp_path / PART).write_bytes(stale)
    fetch(source(serve({"/x.zip": Reply(WHOLE, ranges=True)}) + "/x.zip"), tmp_path / "inv")
    assert files(tmp_path) == CONTENT


def test_a_whole_part_needs_no_byte_more(serve, tmp_path):
    (tmp_path / PART).write_bytes(WHOLE)
    reply = Reply(WHOLE, ranges=True)
    fetch(source(serve({"/x.zip": reply}) + "/x.zip"), tmp_path / "inv")
    assert files(tmp_path) == CONTENT and reply.sent == 0


def _fetch_in_process(archive_wanted, folder, results):
    fetch(archive_wanted, folder)
    results.put(files(folder) == CONTENT)


def test_processes_at_once_fetch_it_once(serve, tmp_path):
    context, reply = multiprocessing.get_context("fork"), Reply(WHOLE, ranges=True)
    archive_wanted, results = source(serve({"/x.zip": reply}) + "/x.zip"), context.Queue()
    processes = [
        context.Process(target=_fetch_in_process, args=(archive_wanted, tmp_path / "inv", results)) for _ in range(5)
    ]
    for process in processes:
        process.start()
    assert [results.get(timeout=60) for _ in processes] == [True] * 5
    for process in processes:
        process.join()
    assert len(reply.asked) == 1 and [path.name for path in tmp_path.iterdir()] == ["inv"]


# ---- other content ------------------------------------------------------------------------------

NOT_THE_ARCHIVE = {
    "a login page": b"<html><body>Please log in</body></html>",
    "nothing": b"",
    "half an archive": WHOLE[: len(WHOLE) // 2],
    "a changed byte": WHOLE[:99] + bytes([WHOLE[99] ^ 1]) + WHOLE[100:],
    "another archive": archive(dict.fromkeys(CONTENT, b"x")),
}


@pytest.mark.parametrize("body", NOT_THE_ARCHIVE.values(), ids=NOT_THE_ARCHIVE)
def test_anything_but_the_archive_is_refused(serve, tmp_path, body):
    message = refused(DataError, serve({"/x.zip": Reply(body)}) + "/x.zip", tmp_path)
    assert "not the Invented-1K archive (md5 " in message and hashlib.md5(body).hexdigest() in message


@pytest.mark.parametrize(
    "body",
    [b"no zip", archive({"README": b"x"}), archive(CONTENT, folder="other/")],
    ids=["no zip", "a member missing", "members elsewhere"],
)
def test_an_archive_that_cannot_be_unpacked_is_refused_and_nothing_is_left(serve, tmp_path, body):
    url = serve({"/x.zip": Reply(body)}) + "/x.zip"
    with pytest.raises(DataError, match="cannot be unpacked"):
        fetch(source(url, body), tmp_path / "inv")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("length", [..., None], ids=["announced", "not announced"])
def test_more_bytes_than_the_limit_are_refused(serve, tmp_path, monkeypatch, length):
    monkeypatch.setattr(download, "LARGEST_ARCHIVE", 70_000)
    url = serve({"/x.zip": Reply(b"0" * 200_000, length)}) + "/x.zip"
    assert "sends more than 70,000 bytes" in refused(DataError, url, tmp_path)


# ---- a network that fails -----------------------------------------------------------------------

FAILURES = {
    "cut within a chunk": (Reply(b"ffff\r\nonly this", chunked=True), []),
    "no http at all": (Reply(b"no http at all"), []),
    "404": (Reply(b"gone", status=404), []),
    "503": (Reply(b"later", status=503), []),
    "redirect in a circle": (Reply(status=302, location="/x.zip"), []),
    "redirect to a file": (Reply(status=302, location="file:///etc/hostname"), []),
}


@pytest.mark.parametrize("reply, left", FAILURES.values(), ids=FAILURES)
def test_a_server_that_does_not_deliver_is_no_network(serve, tmp_path, reply, left):
    refused(NoNetwork, serve({"/x.zip": reply}) + "/x.zip", tmp_path, left)


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
    def fail(archive_wanted, folder):
        raise NoNetwork("http://invented: unreachable")

    monkeypatch.setattr(load, "fetch", fail)


def test_without_network_the_stand_in_says_that_it_stands_in(tmp_path, monkeypatch, notices, no_network):
    monkeypatch.setenv("LCFT_DATA", str(tmp_path))
    data = load.load_dataset("movie", None, False, notices.append)
    assert (data.name, data.source) == ("movie", "stand-in")
    assert "downloading it from GroupLens" in notices[0]
    assert notices[1].startswith("STAND-IN DATA: ") and str(tmp_path / "ml-100k") in notices[1]
    assert len(notices) == 2


def test_the_stand_in_is_refused_when_real_data_is_asked_for(tmp_path, monkeypatch, notices, no_network):
    monkeypatch.setenv("LCFT_DATA", str(tmp_path))
    with pytest.raises(
        DataError, match="no MovieLens-100K in .*unreachable.*put u.data and u.item there, from .*: --data demo/games "
    ):
        load.load_dataset("movie", None, True, notices.append)
    with pytest.raises(DataError, match="--data demo: is simulated"):
        load.load_dataset("demo", None, True, notices.append)


def test_the_stand_in_is_refused_when_a_folder_was_named(tmp_path, notices, no_network):
    with pytest.raises(DataError, match="put u.data and u.item there"):
        load.load_dataset("movie", str(tmp_path), False, notices.append)


def test_a_real_model_is_never_given_the_stand_in(tmp_path, monkeypatch, no_network):
    from cli.data import load_data
    from cli.train import TrainFlags

    monkeypatch.setenv("LCFT_DATA", str(tmp_path))
    assert load_data(vars(TrainFlags())).source == "stand-in"
    with pytest.raises(DataError, match="no MovieLens-100K"):
        load_data(vars(TrainFlags()) | {"model": "llama-7b"})


def test_a_wrong_archive_is_an_error_and_no_reason_for_the_stand_in(tmp_path, monkeypatch, notices, serve):
    monkeypatch.setenv("LCFT_DATA", str(tmp_path))
    url = serve({"/x.zip": Reply(b"<html>")}) + "/x.zip"
    monkeypatch.setattr(load, "fetch", lambda archive_wanted, folder: fetch(source(url), folder))
    with pytest.raises(DataError, match="not the Invented-1K archive"):
        load.load_dataset("movie", None, False, notices.append)


def test_a_download_is_used_and_found_again_the_next_time(tmp_path, monkeypatch, notices, serve, real_file):
    body = archive(
        {name: real_file(f"ml-100k/{name}").read_bytes() for name in ("README", "u.item", "u.data")}, "ml-100k/"
    )
    url = serve({"/x.zip": Reply(body)}) + "/x.zip"
    monkeypatch.setenv("LCFT_DATA", str(tmp_path / "new"))
    monkeypatch.setattr(
        load, "fetch", lambda archive_wanted, folder: fetch(source(url, body, archive_wanted.members), folder)
    )
    assert load.load_dataset("movie", None, True, notices.append).source == "movielens-100k"
    monkeypatch.setattr(load, "fetch", None)  # must not be called again
    assert load.load_dataset("movie", None, True, notices.append).source == "movielens-100k"
    assert len(notices) == 1


def test_files_are_found_in_the_named_folder_or_its_ml_100k(tmp_path, monkeypatch, real_file, notices):
    monkeypatch.setenv("LCFT_DATA", str(tmp_path))
    folder = real_file("ml-100k/u.data").parent
    for data_dir in (folder, folder.parent):
        assert load.load_dataset("movie", str(data_dir), True, notices.append).source == "movielens-100k"
    assert notices == []


@pytest.mark.parametrize(
    "name, data_dir, named", [("movie", "absent", "--data-dir"), ("absent", None, "--data absent")]
)
def test_a_folder_that_is_not_there_is_named_with_its_flag(tmp_path, monkeypatch, notices, name, data_dir, named):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=f"^{named}.*: .*no (such )?folder"):
        load.load_dataset(name, data_dir, False, notices.append)
