-- Rules for every file here: InnoDB and a primary key in every table (Group Replication refuses others), and
-- statements that may run twice (IF NOT EXISTS …): MySQL commits each DDL statement by itself, so a primary that dies
-- in the middle leaves a half-done migration, which is then run again from its start.

CREATE TABLE IF NOT EXISTS users (
    id            BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
    name          VARCHAR(40)  NOT NULL,
    -- NULL: an author whom an import named; nobody can sign in until `trivet-app user password` sets one.
    password_hash VARCHAR(255) NULL,
    is_editor     BOOLEAN      NOT NULL DEFAULT FALSE,
    created_at    DATETIME(6)  NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
    UNIQUE KEY users_name (name)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_0900_ai_ci;

CREATE TABLE IF NOT EXISTS sessions (
    -- SHA-256 of the token: whoever reads this table cannot sign in with it.
    token_hash BINARY(32)      NOT NULL PRIMARY KEY,
    user_id    BIGINT UNSIGNED NOT NULL,
    created_at DATETIME(6)     NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
    expires_at DATETIME(6)     NOT NULL,
    KEY sessions_expires_at (expires_at),
    CONSTRAINT sessions_user FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE
) ENGINE = InnoDB;

CREATE TABLE IF NOT EXISTS articles (
    id           BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
    slug         VARCHAR(100)    NOT NULL,
    title        VARCHAR(200)    NOT NULL,
    summary      VARCHAR(500)    NOT NULL,
    body         MEDIUMTEXT      NOT NULL,
    author_id    BIGINT UNSIGNED NOT NULL,
    version      INT UNSIGNED    NOT NULL DEFAULT 1,
    published_at DATETIME(6)     NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
    updated_at   DATETIME(6)     NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
    UNIQUE KEY articles_slug (slug),
    KEY articles_published (published_at, id),
    FULLTEXT KEY articles_text (title, summary, body),
    -- For the title's extra weight in the order of search results.
    FULLTEXT KEY articles_title (title),
    CONSTRAINT articles_author FOREIGN KEY (author_id) REFERENCES users (id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_0900_ai_ci;

CREATE TABLE IF NOT EXISTS article_tags (
    article_id BIGINT UNSIGNED NOT NULL,
    tag        VARCHAR(40)     NOT NULL,
    PRIMARY KEY (article_id, tag),
    KEY article_tags_tag (tag),
    CONSTRAINT article_tags_article FOREIGN KEY (article_id) REFERENCES articles (id) ON DELETE CASCADE
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_0900_ai_ci;

CREATE TABLE IF NOT EXISTS comments (
    id         BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
    article_id BIGINT UNSIGNED NOT NULL,
    author_id  BIGINT UNSIGNED NOT NULL,
    body       TEXT            NOT NULL,
    created_at DATETIME(6)     NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
    KEY comments_article (article_id, id),
    CONSTRAINT comments_article FOREIGN KEY (article_id) REFERENCES articles (id) ON DELETE CASCADE,
    CONSTRAINT comments_author FOREIGN KEY (author_id) REFERENCES users (id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_0900_ai_ci;
