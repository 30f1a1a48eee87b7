"""A guest book. Where it runs is said by the environment alone: STAGE, and libpq's PGHOST, PGUSER, ..."""

import os

import psycopg2
from flask import Flask, redirect, render_template, request

TEXT_CHARACTERS_MAX = 500
SHOWN_MAX = 50

app = Flask(__name__)
stage = os.environ.get("STAGE", "development")
version = os.environ.get("GUESTBOOK_VERSION", "unknown")


def connect():
    # A new one for each request: the database may have been replaced since the last.
    return psycopg2.connect(connect_timeout=3)


def clean(text):
    """What is kept of an entry; empty where nothing is."""
    return " ".join(text.split())[:TEXT_CHARACTERS_MAX]


@app.get("/")
def index():
    with connect() as database, database.cursor() as cursor:
        cursor.execute("select text, at from entries order by at desc limit %s", (SHOWN_MAX,))
        entries = cursor.fetchall()
    return render_template("index.html", entries=entries, stage=stage, version=version)


@app.post("/entries")
def add():
    text = clean(request.form.get("text", ""))
    if not text:
        return "an entry needs a text\n", 400
    with connect() as database, database.cursor() as cursor:
        cursor.execute("insert into entries (text) values (%s)", (text,))
    return redirect("/", 303)


@app.get("/healthz")
def health():
    with connect() as database, database.cursor() as cursor:
        # Of the table, not `select 1`: a new database server answers before it has the table.
        cursor.execute("select from entries limit 1")
    return {"stage": stage, "version": version}
