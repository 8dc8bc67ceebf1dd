"""What the libraries under these tests warn about themselves."""

import pytest


def pytest_itemcollected(item):
    item.add_marker(pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"))
