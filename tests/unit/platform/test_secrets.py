from qfundus.platform.secrets import SECRET_NAMES, load_or_make_secrets, write_private


def test_secrets_are_made_once_and_only_their_owner_reads_them(tmp_path):
    made = load_or_make_secrets(tmp_path)
    assert set(made) == set(SECRET_NAMES)
    assert load_or_make_secrets(tmp_path) == made
    assert (tmp_path / "secrets.json").stat().st_mode & 0o777 == 0o600


def test_two_platforms_share_no_secret(tmp_path):
    one, other = load_or_make_secrets(tmp_path / "a"), load_or_make_secrets(tmp_path / "b")
    assert not set(one.values()) & set(other.values())


def test_a_private_file_is_replaced_whole(tmp_path):
    file = tmp_path / "x.json"
    write_private(file, "one")
    write_private(file, "two")
    assert file.read_text() == "two"
    assert [f.name for f in tmp_path.iterdir()] == ["x.json"]
