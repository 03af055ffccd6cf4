import pytest

from shards.url_list.provenance import host_of, owner_of, year_posted


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://Farm2.staticflickr.com/1/2_3.jpg", "farm2.staticflickr.com"),
        ("https://user:password@h.org:8080/a", "h.org"),
        ("/a/local/path.jpg", ""),
        ("http://[::1/a.jpg", ""),
    ],
)
def test_host(url, host):
    assert host_of(url) == host


@pytest.mark.parametrize(
    ("columns", "owner"),
    [
        ({"page_url": "http://www.flickr.com/photos/48664097@N02/5159730964"}, "48664097@N02"),
        ({"page_url": "https://flickr.com/photos/48664097%40N02/5159730964/"}, "48664097@N02"),
        ({"page_url": "https://www.flickr.com/photos/a_name/1/in/pool-2"}, "a_name"),
        ({"page_url": "https://www.flickr.com/groups/a_name/1"}, None),
        ({"page_url": "https://www.flickr.com/photos/"}, None),
        ({"page_url": "https://notflickr.com/photos/a_name/1"}, None),
        ({"page_url": "http://[::1/photos/a/1"}, None),
        ({"page_url": None}, None),
        ({"owner": "ann", "page_url": "https://www.flickr.com/photos/bob/1"}, "ann"),
        ({"owner": " ", "page_url": "https://www.flickr.com/photos/bob/1"}, "bob"),
        ({"owner": 7}, "7"),
        ({}, None),
    ],
)
def test_owner(columns, owner):
    assert owner_of(columns) == owner


@pytest.mark.parametrize(
    ("name", "year"),
    [
        # Photos that the estimate isn't made from; their years are from Flickr's API.
        ("7213959182_1678922289", 2012),
        ("8998784856_0123456789", 2013),
        ("14806801522_ae17468aa1", 2014),
        ("18860887926_006cc6ac55", 2015),
        ("5227327325_ec6180fb32_b", 2010),
        ("77_0a", 2004),
        ("29892526478_b7152eef6e", None),
        ("0_0a", None),
        ("photo_unavailable", None),
        ("\u0665_0a", None),  # a digit, but not an ASCII one
    ],
)
def test_year_of_a_flickr_photo(name, year):
    assert year_posted(f"http://farm3.staticflickr.com/12/{name}.jpg") == year


def test_a_number_on_another_host_gives_no_year():
    assert year_posted("http://example.org/12/7213959182_1678922289.jpg") is None
