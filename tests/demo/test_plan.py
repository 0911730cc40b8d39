from open_mythos.demo.plan import SEED_DESIGN, TASK, make_plan


def test_time_is_shared_out_within_the_minutes_given() -> None:
    plan = make_plan(2.0, 3)
    assert set(plan.seconds) == set(plan.recipes)
    assert 0.0 < sum(plan.seconds.values()) < 120.0
    assert all(recipe.seed == 3 for recipe in plan.recipes.values())


def test_the_two_task_runs_differ_in_the_loop_alone() -> None:
    plan = make_plan(5.0, 0)
    ours, seed = plan.recipes[TASK], plan.recipes[SEED_DESIGN]
    assert (ours.data, ours.optim, ours.steps) == (seed.data, seed.optim, seed.steps)
    changed = {
        name for name, value in ours.model.to_dict().items() if value != seed.model.to_dict()[name]
    }
    loop = {"readout", "lti_decay", "loop_index", "loop_index_scale", "loop_lora"}
    assert changed <= loop
    assert seed.model.readout == "act"


def test_questions_reach_far_beyond_the_training() -> None:
    plan = make_plan(5.0, 0)
    assert max(plan.hops) >= 4 * plan.trained_hops
    assert max(plan.text_loops) >= 4 * plan.trained_loops
