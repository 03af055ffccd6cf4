from stylefinetune.serve.settings import Settings


def test_the_bodies_of_several_large_pictures_fit_into_memory():
    assert Settings(max_bytes=1000).memory == 16_000
