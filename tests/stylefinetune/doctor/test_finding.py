from stylefinetune.doctor.finding import Finding, gigabytes


def test_a_finding_is_one_line_with_its_remedy():
    assert str(Finding("disk", "ok", "fine")) == "ok       disk           fine"
    assert str(Finding("disk", "warning", "full", "free some room")).endswith("full; free some room")
    assert gigabytes(1.25e12) == "1,250.0 GB"
