import unittest
from unittest import mock

import guestbook


class Entries(unittest.TestCase):
    def test_blanks_and_length_are_bounded(self):
        self.assertEqual(guestbook.clean("  a \n b "), "a b")
        self.assertEqual(len(guestbook.clean("x" * 1000)), 500)

    def test_an_empty_entry_is_refused_without_asking_the_database(self):
        with mock.patch("psycopg2.connect", side_effect=AssertionError("asked")):
            self.assertEqual(guestbook.app.test_client().post("/entries", data={"text": " "}).status_code, 400)

    def test_entries_are_escaped(self):
        connection = mock.MagicMock()
        cursor = connection.__enter__.return_value.cursor.return_value.__enter__.return_value
        cursor.fetchall.return_value = []
        with mock.patch("psycopg2.connect", return_value=connection):
            page = guestbook.app.test_client().get("/").get_data(as_text=True)
        self.assertIn("development", page)
