"""Which paths the log shows: those of files, and in development those of pages, never those of chats."""

import pytest

from moorline.gateway.logged_path import logged_path


@pytest.mark.parametrize(
    "path", ["/", "/main.js", "/assets/index-BxY3k2_a.js", "/_next/static/chunks/a~b.js", "/logo.PNG"]
)
def test_the_files_of_a_site_are_shown_without_their_query(path: str) -> None:
    assert logged_path(f"{path}?token=secret", in_development=False) == path


@pytest.mark.parametrize(
    "path",
    ["/patients/1234", "/patient:demo.js", "/reports/smith.pdf", "/settings", "/x/%61.js"],
)
def test_pages_and_documents_are_not(path: str) -> None:
    assert logged_path(path, in_development=False) is None


@pytest.mark.parametrize(
    "path", ["/orders/7", "/@vite/client", "/src/App.tsx", "/@id/astro:scripts/page.js", "/reports/a.pdf"]
)
def test_in_development_they_are(path: str) -> None:
    assert logged_path(f"{path}?t=1", in_development=True) == path


@pytest.mark.parametrize(
    "path", ["/chat/patient:demo", "/chat/x/y.js", "/Chat/x", "//chat/x", "/ws/chat/p/s", "/api/x.js"]
)
def test_what_is_below_the_chat_is_never_shown(path: str) -> None:
    assert logged_path(path, in_development=True) is None


def test_a_long_path_is_cut() -> None:
    assert logged_path("/" + "a" * 300, in_development=True) == "/" + "a" * 199 + "..."
