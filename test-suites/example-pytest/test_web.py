"""The deployed server, by the address that the forward gives."""

import os
import urllib.error
import urllib.request

import pytest

URL = os.environ["K8S_TEST_URL_WEB"]


def get(path):
    with urllib.request.urlopen(URL + path, timeout=10) as answer:
        return answer.read().decode()


def test_greets_as_the_configmap_says():
    assert get("/") == f"hello from {os.environ['K8S_TEST_NAMESPACE_MAIN']}"


def test_is_served_by_a_pod_of_the_release():
    assert get("/pod").startswith("web-")


def test_refuses_what_it_does_not_know():
    with pytest.raises(urllib.error.HTTPError) as refused:
        get("/nothing")
    assert refused.value.code == 404
