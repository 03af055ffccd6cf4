import sys

from stylefinetune.doctor.software import check_aria2c, check_packages, check_python


def test_an_old_python_fails():
    assert check_python().level == "ok"
    assert (check_python((3, 10, 4)).level, check_python((3, 10, 4)).found) == ("failed", "3.10.4")


def test_packages_with_other_versions_are_named(monkeypatch, tmp_path):
    assert check_packages().level == "ok"
    metadata = tmp_path / "broken-1.dist-info" / "METADATA"
    metadata.parent.mkdir()
    needs = ["numpy>=99", "no-such-package>1", 'other-package>1; extra == "dev"', "torch>1"]
    metadata.write_text(
        "Metadata-Version: 2.1\nName: broken\nVersion: 1\n" + "".join(f"Requires-Dist: {n}\n" for n in needs)
    )
    monkeypatch.syspath_prepend(tmp_path)
    finding = check_packages("broken")
    assert finding.level == "failed"
    assert "no-such-package is missing" in finding.found
    assert "and >=99 is needed" in finding.found
    assert "other-package" not in finding.found
    assert "torch" not in finding.found


def test_aria2c_is_found_in_its_package_or_on_path(monkeypatch, tmp_path):
    assert check_aria2c().level == "ok"
    monkeypatch.setitem(sys.modules, "aria2c", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    finding = check_aria2c()
    assert (finding.level, finding.found) == ("failed", "aria2c not found")
    assert finding.remedy.startswith("install aria2")
