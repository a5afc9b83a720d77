"""What the actions answer."""

from homeassistant.util.json import JsonObjectType, JsonValueType

from .client import Member, Plan, Rollout
from .coordinator import Hub


def told_plan(hub: Hub, plan: Plan) -> JsonObjectType:
    """Return a plan."""
    devices: list[JsonValueType] = [
        {
            "device_id": hub.device_entry_id(member.device),
            "name": member.name,
            "from": member.runs,
            "to": member.firmware,
            "minutes": max(1, round(member.estimate_s / 60)),
            "way_back": member.way_back is not None,
            "interrupts": member.interrupts,
        }
        for member in plan.members
    ]
    skipped: list[JsonValueType] = [
        {
            "device_id": hub.device_entry_id(left.device),
            "name": left.name,
            "reason": left.reason.rule,
            "text": left.reason.text,
            "next_step": left.reason.next_step,
        }
        for left in plan.left_out
    ]
    sentences: list[JsonValueType] = list(plan.sentences)
    minutes = max(1, round(plan.estimate_s / 60)) if plan.members else 0
    return {"devices": devices, "skipped": skipped, "minutes": minutes, "sentences": sentences}


def began(hub: Hub, plan: Plan, rollout: Rollout | None) -> JsonObjectType:
    """Return what was begun, and how it stands; without a rollout nothing was to be done."""
    if rollout is None:
        return {"rollout_id": None, "state": "nothing to do", "plan": told_plan(hub, plan)}
    devices: list[JsonValueType] = [_told_member(hub, member) for member in rollout.members]
    return {"rollout_id": rollout.id, "state": rollout.state, "devices": devices, "plan": told_plan(hub, plan)}


def _told_member(hub: Hub, member: Member) -> JsonObjectType:
    return {
        "device_id": hub.device_entry_id(member.device),
        "name": member.name,
        "state": member.state,
        "reason": member.reason,
        "next_step": member.next_step,
    }
