-- The words of an article without its markup, made when it is written: search cuts its excerpts from here, so that
-- nobody who searches makes the app load and parse whole articles. A table of its own, because a column cannot be added
-- by a statement that may run twice.
CREATE TABLE IF NOT EXISTS article_texts (
    article_id BIGINT UNSIGNED NOT NULL PRIMARY KEY,
    -- The version of the article that it is the text of. An older app, which may run beside this one during an upgrade,
    -- edits articles without writing here.
    version    INT UNSIGNED    NOT NULL,
    words      INT UNSIGNED    NOT NULL,
    plain      MEDIUMTEXT      NOT NULL,
    CONSTRAINT article_texts_article FOREIGN KEY (article_id) REFERENCES articles (id) ON DELETE CASCADE
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_0900_ai_ci;
