"""Why a recording was not judged, in a sentence: what was measured, what is needed, what to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from retrocare.audio.speech import RecordingLimits

# Reasons without numbers; ``explain`` writes the others.
SENTENCES = {
    "sick_without_baseline": "The patient is noted as unwell and has no baseline yet. The next healthy call enrols.",
    "sick_at_enrolment": "The patient was noted as unwell on that day. Enrol recordings of healthy days.",
    "no_consent": "The patient has not consented to voiceprints. `retrocare patient consent` records a consent.",
    "duplicate_recording": "This very recording was judged before, as another call of the patient.",
    "voicemail": "A voicemail greeting answered, not the patient.",
    "not_answered": "Nobody answered the call.",
    "nobody_spoke": "The call was answered, and nobody spoke.",
    "call_failed": "The call did not come about.",
    "ended_reason_unknown": "The call ended in a way that is not known here. `retrocare issues` lists it.",
    "recording_unavailable": "The recording could not be fetched, and will not be there later.",
    "recording_expired": "The phone provider has deleted the recording.",
    "processing_failed": "The recording could not be processed. `retrocare checks --state dead` has the error.",
    "attempts_exhausted": "Every attempt failed. `retrocare checks --state dead` has the last error.",
    "upload_lost": "Judging the file failed, and no copy of it is kept. Give the file again.",
}


def explain(reason: str, measures: Mapping[str, Any], limits: RecordingLimits | None = None) -> str:
    """Say why a recording was not judged; ``measures`` are those of NotAssessable, or a check's stored quality."""
    detail = str(measures.get("detail") or "").strip()
    match reason:
        case "no_speech":
            needed = f" At least {limits.minimum_speech_seconds:g} s are needed." if limits else ""
            return f"No speech was heard.{needed}"
        case "too_little_speech":
            return _compared("Heard", measures.get("speech_seconds"), " s of speech", limits, "minimum_speech_seconds")
        case "too_noisy":
            return _compared("Speech is only", measures.get("snr_db"), " dB above the noise", limits, "minimum_snr_db")
        case "clipped":
            share = measures.get("clipped_share")
            found = f"{100 * share:.1f} % of the samples" if isinstance(share, int | float) else "Too many samples"
            most = f"; at most {100 * limits.maximum_clipped_share:g} % may be" if limits else ""
            return f"{found} are clipped: the recording was too loud{most}."
        case "too_long":
            seconds, limit = measures.get("seconds"), measures.get("maximum_seconds")
            lasts = f"The recording lasts {seconds:.0f} s" if isinstance(seconds, int | float) else "It is too long"
            judged = f"at most {limit:.0f} s are judged" if isinstance(limit, int | float) else detail
            return f"{lasts}; {judged}." if judged else f"{lasts}."
        case "ambiguous_channel":
            return f"Which channel is the patient's is not clear: {detail or 'the channels differ'}."
        case "undecodable":
            return f"The recording cannot be read: {detail or 'it is broken'}."
    return SENTENCES.get(reason, f"It was not judged: {reason.replace('_', ' ')}.")


def _compared(verb: str, measured: object, unit: str, limits: RecordingLimits | None, limit: str) -> str:
    found = f"{verb} {measured:.1f}{unit}" if isinstance(measured, int | float) else f"{verb} too few{unit}"
    return f"{found}; {getattr(limits, limit):g} are needed." if limits else f"{found}, which is not enough."
