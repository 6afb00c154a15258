"""`/models` lists the models that the engines have loaded."""

from factories import engine_info, register
from serving import Site


def test_without_an_engine_the_list_of_models_is_empty(bare_site: Site) -> None:
    response = bare_site.http.get("/models")

    assert (response.status_code, response.json()) == (200, [])


def test_models_are_merged_over_engines(bare_site: Site) -> None:
    lite = engine_info().models[0]
    base = lite.model_copy(
        update={"name": "base", "preset": "base", "precision": "float16", "compiled": True}
    )
    register(bare_site.redis, engine_info(id="a", models=(lite, base), device="cuda:0"))
    register(bare_site.redis, engine_info(id="b", device="cpu"))

    models = bare_site.http.get("/models").json()

    speeds = {"psnr": 4e5, "fused": 2e5, "gan": 3e5}
    assert [(model["name"], model["default"]) for model in models] == [
        ("base", False),
        ("lite", True),
    ]
    assert models[0]["devices"] == [
        {
            "device": "cuda:0",
            "precision": "float16",
            "compiled": True,
            "backend": "torch",
            "seconds_by_backend": {},
            "pixels_per_second": speeds,
        }
    ]
    assert [where["device"] for where in models[1]["devices"]] == ["cuda:0", "cpu"]
    assert models[1]["card"] == {"licence": "Apache-2.0"}
    assert (models[1]["preset"], models[1]["scale"], models[1]["sha256"]) == ("lite", 4, "0" * 64)
