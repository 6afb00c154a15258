"""Damaged uploads, sent to the header and form parsers in real requests, end in a job or a problem.

Each response takes less than two seconds of CPU time and is never a server error.
"""

import random
import time
from collections import Counter

from factories import engine_info, register
from mutations import damaged, damaged_form
from serving import Serve, problem_of


def test_a_damaged_upload_is_a_job_or_a_problem_of_the_clients(serve: Serve) -> None:
    site, uploads = serve(), 200
    answers: Counter[str] = Counter()
    past_sniffing = 0
    register(site.redis, engine_info(extra_formats=("heic", "jxl")))
    for number in range(uploads):
        dice = random.Random(number)
        picture, frame = damaged(number)
        params = {} if frame is None else {"frame": frame}
        content, kind = (picture, "image/*") if number % 2 else damaged_form(picture, dice)
        start = time.process_time()
        response = site.post(content, params=params, headers={"Content-Type": kind})
        assert time.process_time() - start < 2, number
        assert response.status_code < 500, (number, response.text)
        if response.status_code == 202:
            answers["job"] += 1
            site.http.delete(response.json()["links"]["self"])
        else:
            answers[problem_of(response)] += 1
        past_sniffing += response.status_code not in (400, 415) and "errors" not in response.text

    assert past_sniffing >= uploads / 2
    assert answers["job"] > uploads / 5
    assert {"image-corrupt", "invalid-request"} < set(answers)
