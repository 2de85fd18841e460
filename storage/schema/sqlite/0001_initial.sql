-- The tables of storage.api in SQLite. Forward only: a later change is a later file.
--
-- Tables whose rows are small and read by their key are WITHOUT ROWID: one B-tree instead of two. For messages that was
-- measured (docs/storage.md): a commit touches one leaf per chat and index, and a page of history is neighbouring rows.

CREATE TABLE slots (
    slot INTEGER PRIMARY KEY,
    epoch INTEGER NOT NULL,
    worker INTEGER NOT NULL,
    incarnation INTEGER NOT NULL,
    is_released INTEGER NOT NULL
) STRICT;

CREATE TABLE chats (
    chat_id INTEGER PRIMARY KEY,
    kind INTEGER NOT NULL,
    title TEXT NOT NULL,
    version INTEGER NOT NULL,
    changed_counter INTEGER NOT NULL
) STRICT;

CREATE TABLE members (
    chat_id INTEGER NOT NULL,
    user_id INTEGER NOT NULL,
    role INTEGER NOT NULL,
    joined_seq INTEGER NOT NULL,
    left_seq INTEGER NOT NULL,
    changed_counter INTEGER NOT NULL,
    PRIMARY KEY (chat_id, user_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX members_by_user ON members (user_id, chat_id);

CREATE TABLE direct (
    low INTEGER NOT NULL,
    high INTEGER NOT NULL,
    chat_id INTEGER NOT NULL,
    PRIMARY KEY (low, high)
) STRICT, WITHOUT ROWID;

CREATE TABLE created (
    creator INTEGER NOT NULL,
    client_chat_id BLOB NOT NULL,
    chat_id INTEGER NOT NULL,
    PRIMARY KEY (creator, client_chat_id)
) STRICT, WITHOUT ROWID;

-- The body comes last: what does not fit a page overflows without moving the columns before it.
CREATE TABLE messages (
    chat_id INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    prev_seq INTEGER NOT NULL,
    sender_id INTEGER NOT NULL,
    sender_device INTEGER NOT NULL,
    time_ms INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    target_seq INTEGER,
    client_msg_id BLOB NOT NULL,
    digest BLOB NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (chat_id, seq)
) STRICT, WITHOUT ROWID;

-- System rows (kind 4) have no client_msg_id: leaving them out keeps a client's all-zero id from finding one.
CREATE INDEX messages_by_sender ON messages (chat_id, sender_id, client_msg_id) WHERE kind <> 4;

CREATE TABLE watermarks (
    chat_id INTEGER NOT NULL,
    user_id INTEGER NOT NULL,
    delivered_seq INTEGER NOT NULL,
    read_seq INTEGER NOT NULL,
    PRIMARY KEY (chat_id, user_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE cursors (
    user_id INTEGER NOT NULL,
    device_id INTEGER NOT NULL,
    chat_id INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (user_id, device_id, chat_id)
) STRICT, WITHOUT ROWID;
