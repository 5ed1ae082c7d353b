export type Json = string | number | boolean | null | { [key: string]: Json | undefined } | Json[];

export type Database = {
  "public": {
    Tables: {
      "alert_causes": {
        Row: {
          "closes_when_heard": boolean;
          "has_score": boolean;
          "id": string;
          "name": string;
          "signal": string | null;
        };
        ComputedFields: never;
        Insert: {
          "closes_when_heard": boolean;
          "has_score": boolean;
          "id": string;
          "name": string;
          "signal"?: string | null;
        };
        Update: {
          "closes_when_heard"?: boolean;
          "has_score"?: boolean;
          "id"?: string;
          "name"?: string;
          "signal"?: string | null;
        };
        Relationships: [];
      };
      "alert_changes": {
        Row: {
          "actor": Database["public"]["Enums"]["alert_actor"];
          "actor_id": string | null;
          "alert_id": string;
          "call_log_id": string | null;
          "caregiver_id": string | null;
          "cause": string;
          "change": Database["public"]["Enums"]["alert_change"];
          "changed_at": string;
          "id": string;
          "is_urgent": boolean;
          "judgement_id": string | null;
          "level": Database["public"]["Enums"]["alert_level"];
          "operator": string | null;
          "outcome": Database["public"]["Enums"]["alert_outcome"] | null;
          "patient_id": string;
          "snoozed_until": string | null;
        };
        ComputedFields: never;
        Insert: {
          "actor"?: Database["public"]["Enums"]["alert_actor"];
          "actor_id"?: string | null;
          "alert_id": string;
          "call_log_id"?: string | null;
          "caregiver_id"?: string | null;
          "cause": string;
          "change": Database["public"]["Enums"]["alert_change"];
          "changed_at": string;
          "id"?: string;
          "is_urgent"?: boolean;
          "judgement_id"?: string | null;
          "level": Database["public"]["Enums"]["alert_level"];
          "operator"?: string | null;
          "outcome"?: Database["public"]["Enums"]["alert_outcome"] | null;
          "patient_id": string;
          "snoozed_until"?: string | null;
        };
        Update: {
          "actor"?: Database["public"]["Enums"]["alert_actor"];
          "actor_id"?: string | null;
          "alert_id"?: string;
          "call_log_id"?: string | null;
          "caregiver_id"?: string | null;
          "cause"?: string;
          "change"?: Database["public"]["Enums"]["alert_change"];
          "changed_at"?: string;
          "id"?: string;
          "is_urgent"?: boolean;
          "judgement_id"?: string | null;
          "level"?: Database["public"]["Enums"]["alert_level"];
          "operator"?: string | null;
          "outcome"?: Database["public"]["Enums"]["alert_outcome"] | null;
          "patient_id"?: string;
          "snoozed_until"?: string | null;
        };
        Relationships: [
          {
            foreignKeyName: "a_change_has_a_known_cause";
            columns: ["cause"];
            isOneToOne: false;
            referencedRelation: "alert_causes";
            referencedColumns: ["id"];
          },
          {
            foreignKeyName: "a_change_is_about_a_patient";
            columns: ["patient_id"];
            isOneToOne: false;
            referencedRelation: "caregiver_patients";
            referencedColumns: ["patient_id"];
          },
          {
            foreignKeyName: "a_change_is_about_a_patient";
            columns: ["patient_id"];
            isOneToOne: false;
            referencedRelation: "patients";
            referencedColumns: ["id"];
          },
          {
            foreignKeyName: "a_change_is_of_an_alert";
            columns: ["alert_id"];
            isOneToOne: false;
            referencedRelation: "alert_history";
            referencedColumns: ["alert_id"];
          },
          {
            foreignKeyName: "a_change_is_of_an_alert";
            columns: ["alert_id"];
            isOneToOne: false;
            referencedRelation: "caregiver_alerts";
            referencedColumns: ["id"];
          },
          {
            foreignKeyName: "a_change_is_of_an_alert";
            columns: ["alert_id"];
            isOneToOne: false;
            referencedRelation: "caregiver_patients";
            referencedColumns: ["alert_id"];
          },
          {
            foreignKeyName: "a_change_keeps_its_call";
            columns: ["call_log_id"];
            isOneToOne: false;
            referencedRelation: "call_logs";
            referencedColumns: ["id"];
          },
          {
            foreignKeyName: "a_change_keeps_its_call";
            columns: ["call_log_id"];
            isOneToOne: false;
            referencedRelation: "voice_timeline";
            referencedColumns: ["call_log_id"];
          },
          {
            foreignKeyName: "a_change_keeps_its_judgement";
            columns: ["judgement_id"];
            isOneToOne: false;
            referencedRelation: "judgements";
            referencedColumns: ["id"];
          },
          {
            foreignKeyName: "whoever_changed_it_was_a_caregiver";
            columns: ["caregiver_id"];
            isOneToOne: false;
            referencedRelation: "patient_caregivers";
            referencedColumns: ["id"];
          },
        ];
      };
      "call_logs": {
        Row: {
          "anomaly_score": number | null;
          "check_reason": Database["public"]["Enums"]["check_reason"] | null;
          "check_state": Database["public"]["Enums"]["check_state"] | null;
          "created_at": string;
          "ended_reason": string | null;
          "enrolment_id": string | null;
          "id": string;
          "is_heard": boolean;
          "is_unheard": boolean;
          "patient_id": string;
          "provider": string | null;
          "provider_account": string | null;
          "provider_call_id": string | null;
          "recording_channel": Database["public"]["Enums"]["recording_channel"] | null;
          "recording_ref": string | null;
          "recording_source_url": string | null;
          "source": Database["public"]["Enums"]["call_source"];
          "speech_intervals": Json | null;
          "summary": string | null;
          "timestamp": string;
        };
        ComputedFields: never;
        Insert: {
          "anomaly_score"?: number | null;
          "check_reason"?: Database["public"]["Enums"]["check_reason"] | null;
          "check_state"?: Database["public"]["Enums"]["check_state"] | null;
          "created_at"?: string;
          "ended_reason"?: string | null;
          "enrolment_id"?: string | null;
          "id"?: string;
          "is_heard"?: never;
          "is_unheard"?: never;
          "patient_id": string;
          "provider"?: string | null;
          "provider_account"?: string | null;
          "provider_call_id"?: string | null;
          "recording_channel"?: Database["public"]["Enums"]["recording_channel"] | null;
          "recording_ref"?: string | null;
          "recording_source_url"?: string | null;
          "source"?: Database["public"]["Enums"]["call_source"];
          "speech_intervals"?: Json | null;
          "summary"?: string | null;
          "timestamp"?: string;
        };
        Update: {
          "anomaly_score"?: number | null;
          "check_reason"?: Database["public"]["Enums"]["check_reason"] | null;
          "check_state"?: Database["public"]["Enums"]["check_state"] | null;
          "created_at"?: string;
          "ended_reason"?: string | null;
          "enrolment_id"?: string | null;
          "id"?: string;
          "is_heard"?: never;
          "is_unheard"?: never;
          "patient_id"?: string;
          "provider"?: string | null;
          "provider_account"?: string | null;
          "provider_call_id"?: string | null;
          "recording_channel"?: Database["public"]["Enums"]["recording_channel"] | null;
          "recording_ref"?: string | null;
          "recording_source_url"?: string | null;
          "source"?: Database["public"]["Enums"]["call_source"];
          "speech_intervals"?: Json | null;
          "summary"?: string | null;
          "timestamp"?: string;
        };
        Relationships: [
          {
            foreignKeyName: "a_call_is_with_a_patient";
            columns: ["patient_id"];
            isOneToOne: false;
            referencedRelation: "caregiver_patients";
            referencedColumns: ["patient_id"];
          },
          {
            foreignKeyName: "a_call_is_with_a_patient";
            columns: ["patient_id"];
            isOneToOne: false;
            referencedRelation: "patients";
            referencedColumns: ["id"];
          },
        ];
      };
      "caregiver_alerts": {
        Row: {
          "acknowledged_at": string | null;
          "acknowledged_by": string | null;
          "anomaly_score": number | null;
          "call_log_id": string | null;
          "cause": string;
          "causes": (string)[];
          "id": string;
          "is_urgent": boolean;
          "judgement_id": string | null;
          "last_raised_at": string;
          "level": Database["public"]["Enums"]["alert_level"];
          "next_change_at": string | null;
          "notes": string | null;
          "opened_at": string;
          "outcome": Database["public"]["Enums"]["alert_outcome"] | null;
          "patient_id": string;
          "reminder_count": number;
          "repeat_count": number;
          "resolved_at": string | null;
          "resolved_by": string | null;
          "snoozed_until": string | null;
          "state": Database["public"]["Enums"]["alert_state"];
        };
        ComputedFields: never;
        Insert: {
          "acknowledged_at"?: string | null;
          "acknowledged_by"?: string | null;
          "anomaly_score"?: number | null;
          "call_log_id"?: string | null;
          "cause": string;
          "causes"?: (string)[];
          "id"?: string;
          "is_urgent"?: boolean;
          "judgement_id"?: string | null;
          "last_raised_at"?: string;
          "level": Database["public"]["Enums"]["alert_level"];
          "next_change_at"?: string | null;
          "notes"?: string | null;
          "opened_at"?: string;
          "outcome"?: Database["public"]["Enums"]["alert_outcome"] | null;
          "patient_id": string;
          "reminder_count"?: number;
          "repeat_count"?: number;
          "resolved_at"?: string | null;
          "resolved_by"?: string | null;
          "snoozed_until"?: string | null;
          "state"?: Database["public"]["Enums"]["alert_state"];
        };
        Update: {
          "acknowledged_at"?: string | null;
          "acknowledged_by"?: string | null;
          "anomaly_score"?: number | null;
          "call_log_id"?: string | null;
          "cause"?: string;
          "causes"?: (string)[];
          "id"?: string;
          "is_urgent"?: boolean;
          "judgement_id"?: string | null;
          "last_raised_at"?: string;
          "level"?: Database["public"]["Enums"]["alert_level"];
          "next_change_at"?: string | null;
          "notes"?: string | null;
          "opened_at"?: string;
          "outcome"?: Database["public"]["Enums"]["alert_outcome"] | null;
          "patient_id"?: string;
          "reminder_count"?: number;
          "repeat_count"?: number;
          "resolved_at"?: string | null;
          "resolved_by"?: string | null;
          "snoozed_until"?: string | null;
          "state"?: Database["public"]["Enums"]["alert_state"];
        };
        Relationships: [
          {
            foreignKeyName: "an_alert_has_a_known_cause";
            columns: ["cause"];
            isOneToOne: false;
            referencedRelation: "alert_causes";
            referencedColumns: ["id"];
          },
          {
            foreignKeyName: "an_alert_is_about_a_patient";
            columns: ["patient_id"];
            isOneToOne: false;
            referencedRelation: "caregiver_patients";
            referencedColumns: ["patient_id"];
          },
          {
            foreignKeyName: "an_alert_is_about_a_patient";
            columns: ["patient_id"];
            isOneToOne: false;
            referencedRelation: "patients";
            referencedColumns: ["id"];
          },
          {
            foreignKeyName: "an_alert_keeps_its_worst_call";
            columns: ["call_log_id"];
            isOneToOne: false;
            referencedRelation: "call_logs";
            referencedColumns: ["id"];
          },
          {
            foreignKeyName: "an_alert_keeps_its_worst_call";
            columns: ["call_log_id"];
            isOneToOne: false;
            referencedRelation: "voice_timeline";
            referencedColumns: ["call_log_id"];
          },
          {
            foreignKeyName: "an_alert_keeps_its_worst_judgement";
            columns: ["judgement_id"];
            isOneToOne: false;
            referencedRelation: "judgements";
            referencedColumns: ["id"];
          },
          {
            foreignKeyName: "whoever_acknowledged_was_a_caregiver";
            columns: ["acknowledged_by"];
            isOneToOne: false;
            referencedRelation: "patient_caregivers";
            referencedColumns: ["id"];
          },
          {
            foreignKeyName: "whoever_resolved_was_a_caregiver";
            columns: ["resolved_by"];
            isOneToOne: false;
            referencedRelation: "patient_caregivers";
            referencedColumns: ["id"];
          },
        ];
      };
      "consents": {
        Row: {
          "created_at": string;
          "evidence": string;
          "given_at": string;
          "id": string;
          "patient_id": string;
          "recorded_by": string | null;
          "scope": string;
          "withdrawn_at": string | null;
          "withdrawn_by": string | null;
        };
        ComputedFields: never;
        Insert: {
          "created_at"?: string;
          "evidence": string;
          "given_at": string;
          "id"?: string;
          "patient_id": string;
          "recorded_by"?: string | null;
          "scope"?: string;
          "withdrawn_at"?: string | null;
          "withdrawn_by"?: string | null;
        };
        Update: {
          "created_at"?: string;
          "evidence"?: string;
          "given_at"?: string;
          "id"?: string;
          "patient_id"?: string;
          "recorded_by"?: string | null;
          "scope"?: string;
          "withdrawn_at"?: string | null;
          "withdrawn_by"?: string | null;
        };
        Relationships: [
          {
            foreignKeyName: "a_consent_is_a_patients";
            columns: ["patient_id"];
            isOneToOne: false;
            referencedRelation: "caregiver_patients";
            referencedColumns: ["patient_id"];
          },
          {
            foreignKeyName: "a_consent_is_a_patients";
            columns: ["patient_id"];
            isOneToOne: false;
            referencedRelation: "patients";
            referencedColumns: ["id"];
          },
        ];
      };
      "daily_checkins": {
        Row: {
          "anomaly_score": number | null;
          "created_at": string;
          "date": string | null;
          "id": string;
          "patient_id": string;
          "severity": Database["public"]["Enums"]["anomaly_severity"] | null;
        };
        ComputedFields: never;
        Insert: {
          "anomaly_score"?: number | null;
          "created_at"?: string;
          "date"?: string | null;
          "id"?: string;
          "patient_id": string;
          "severity"?: Database["public"]["Enums"]["anomaly_severity"] | null;
        };
        Update: {
          "anomaly_score"?: number | null;
          "created_at"?: string;
          "date"?: string | null;
          "id"?: string;
          "patient_id"?: string;
          "severity"?: Database["public"]["Enums"]["anomaly_severity"] | null;
        };
        Relationships: [
          {
            foreignKeyName: "a_checkin_is_a_patients";
            columns: ["patient_id"];
            isOneToOne: false;
            referencedRelation: "caregiver_patients";
            referencedColumns: ["patient_id"];
          },
          {
            foreignKeyName: "a_checkin_is_a_patients";
            columns: ["patient_id"];
            isOneToOne: false;
            referencedRelation: "patients";
            referencedColumns: ["id"];
          },
        ];
      };
      "health_flags": {
        Row: {
          "created_at": string;
          "flag": string | null;
          "id": string;
          "patient_id": string;
          "resolved_at": string | null;
          "started_at": string;
        };
        ComputedFields: never;
        Insert: {
          "created_at"?: string;
          "flag"?: string | null;
          "id"?: string;
          "patient_id": string;
          "resolved_at"?: string | null;
          "started_at"?: string;
        };
        Update: {
          "created_at"?: string;
          "flag"?: string | null;
          "id"?: string;
          "patient_id"?: string;
          "resolved_at"?: string | null;
          "started_at"?: string;
        };
        Relationships: [
          {
            foreignKeyName: "a_health_flag_is_a_patients";
            columns: ["patient_id"];
            isOneToOne: false;
            referencedRelation: "caregiver_patients";
            referencedColumns: ["patient_id"];
          },
          {
            foreignKeyName: "a_health_flag_is_a_patients";
            columns: ["patient_id"];
            isOneToOne: false;
            referencedRelation: "patients";
            referencedColumns: ["id"];
          },
        ];
      };
      "judgements": {
        Row: {
          "alert_sent": boolean;
          "alert_type": Database["public"]["Enums"]["alert_type"] | null;
          "call_log_id": string;
          "created_at": string;
          "explanation": string | null;
          "id": string;
          "is_urgent": boolean;
          "likely_patient_id": string | null;
          "model": string;
          "occurred_at": string;
          "patient_id": string;
          "policy_id": number;
          "reasons": (string)[];
          "rule": string;
          "score": number;
          "severity": Database["public"]["Enums"]["anomaly_severity"];
          "signal": string;
        };
        ComputedFields: never;
        Insert: {
          "alert_sent"?: boolean;
          "alert_type"?: Database["public"]["Enums"]["alert_type"] | null;
          "call_log_id": string;
          "created_at"?: string;
          "explanation"?: string | null;
          "id"?: string;
          "is_urgent"?: boolean;
          "likely_patient_id"?: string | null;
          "model": string;
          "occurred_at": string;
          "patient_id": string;
          "policy_id": number;
          "reasons"?: (string)[];
          "rule": string;
          "score": number;
          "severity": Database["public"]["Enums"]["anomaly_severity"];
          "signal": string;
        };
        Update: {
          "alert_sent"?: boolean;
          "alert_type"?: Database["public"]["Enums"]["alert_type"] | null;
          "call_log_id"?: string;
          "created_at"?: string;
          "explanation"?: string | null;
          "id"?: string;
          "is_urgent"?: boolean;
          "likely_patient_id"?: string | null;
          "model"?: string;
          "occurred_at"?: string;
          "patient_id"?: string;
          "policy_id"?: number;
          "reasons"?: (string)[];
          "rule"?: string;
          "score"?: number;
          "severity"?: Database["public"]["Enums"]["anomaly_severity"];
          "signal"?: string;
        };
        Relationships: [
          {
            foreignKeyName: "a_judgement_is_of_a_call";
            columns: ["call_log_id"];
            isOneToOne: false;
            referencedRelation: "call_logs";
            referencedColumns: ["id"];
          },
          {
            foreignKeyName: "a_judgement_is_of_a_call";
            columns: ["call_log_id"];
            isOneToOne: false;
            referencedRelation: "voice_timeline";
            referencedColumns: ["call_log_id"];
          },
          {
            foreignKeyName: "a_judgement_is_of_a_patient";
            columns: ["patient_id"];
            isOneToOne: false;
            referencedRelation: "caregiver_patients";
            referencedColumns: ["patient_id"];
          },
          {
            foreignKeyName: "a_judgement_is_of_a_patient";
            columns: ["patient_id"];
            isOneToOne: false;
            referencedRelation: "patients";
            referencedColumns: ["id"];
          },
          {
            foreignKeyName: "a_judgement_keeps_its_policy";
            columns: ["policy_id"];
            isOneToOne: false;
            referencedRelation: "scoring_policies";
            referencedColumns: ["id"];
          },
          {
            foreignKeyName: "another_patient_may_have_spoken";
            columns: ["likely_patient_id"];
            isOneToOne: false;
            referencedRelation: "caregiver_patients";
            referencedColumns: ["patient_id"];
          },
          {
            foreignKeyName: "another_patient_may_have_spoken";
            columns: ["likely_patient_id"];
            isOneToOne: false;
            referencedRelation: "patients";
            referencedColumns: ["id"];
          },
        ];
      };
      "organisations": {
        Row: {
          "created_at": string;
          "id": string;
          "name": string;
        };
        ComputedFields: never;
        Insert: {
          "created_at"?: string;
          "id"?: string;
          "name"?: string;
        };
        Update: {
          "created_at"?: string;
          "id"?: string;
          "name"?: string;
        };
        Relationships: [];
      };
      "patient_caregivers": {
        Row: {
          "created_at": string;
          "id": string;
          "language": string;
          "name": string | null;
          "other_addresses": NonNullable<Json>;
          "patient_id": string;
          "patient_known_as": string | null;
          "phone": string | null;
          "quiet_from": string | null;
          "quiet_until": string | null;
          "role": Database["public"]["Enums"]["caregiver_role"];
          "timezone": string | null;
          "user_id": string | null;
          "webhook_url": string | null;
        };
        ComputedFields: never;
        Insert: {
          "created_at"?: string;
          "id"?: string;
          "language"?: string;
          "name"?: string | null;
          "other_addresses"?: NonNullable<Json>;
          "patient_id": string;
          "patient_known_as"?: string | null;
          "phone"?: string | null;
          "quiet_from"?: string | null;
          "quiet_until"?: string | null;
          "role"?: Database["public"]["Enums"]["caregiver_role"];
          "timezone"?: string | null;
          "user_id"?: string | null;
          "webhook_url"?: string | null;
        };
        Update: {
          "created_at"?: string;
          "id"?: string;
          "language"?: string;
          "name"?: string | null;
          "other_addresses"?: NonNullable<Json>;
          "patient_id"?: string;
          "patient_known_as"?: string | null;
          "phone"?: string | null;
          "quiet_from"?: string | null;
          "quiet_until"?: string | null;
          "role"?: Database["public"]["Enums"]["caregiver_role"];
          "timezone"?: string | null;
          "user_id"?: string | null;
          "webhook_url"?: string | null;
        };
        Relationships: [
          {
            foreignKeyName: "a_caregiver_cares_for_a_patient";
            columns: ["patient_id"];
            isOneToOne: false;
            referencedRelation: "caregiver_patients";
            referencedColumns: ["patient_id"];
          },
          {
            foreignKeyName: "a_caregiver_cares_for_a_patient";
            columns: ["patient_id"];
            isOneToOne: false;
            referencedRelation: "patients";
            referencedColumns: ["id"];
          },
        ];
      };
      "patients": {
        Row: {
          "created_at": string;
          "flags": (string)[];
          "id": string;
          "name": string | null;
          "organisation_id": string;
          "phone": string | null;
          "silent_after_days": number | null;
          "timezone": string;
          "voice_consent_at": string | null;
          "warnings_per_year": number | null;
        };
        ComputedFields: never;
        Insert: {
          "created_at"?: string;
          "flags"?: (string)[];
          "id"?: string;
          "name"?: string | null;
          "organisation_id"?: string;
          "phone"?: string | null;
          "silent_after_days"?: number | null;
          "timezone"?: string;
          "voice_consent_at"?: string | null;
          "warnings_per_year"?: number | null;
        };
        Update: {
          "created_at"?: string;
          "flags"?: (string)[];
          "id"?: string;
          "name"?: string | null;
          "organisation_id"?: string;
          "phone"?: string | null;
          "silent_after_days"?: number | null;
          "timezone"?: string;
          "voice_consent_at"?: string | null;
          "warnings_per_year"?: number | null;
        };
        Relationships: [
          {
            foreignKeyName: "a_patient_is_an_organisations";
            columns: ["organisation_id"];
            isOneToOne: false;
            referencedRelation: "organisations";
            referencedColumns: ["id"];
          },
        ];
      };
      "scoring_policies": {
        Row: {
          "first_used_at": string;
          "id": number;
          "policy": NonNullable<Json>;
        };
        ComputedFields: never;
        Insert: {
          "first_used_at"?: string;
          "id"?: never;
          "policy": NonNullable<Json>;
        };
        Update: {
          "first_used_at"?: string;
          "id"?: never;
          "policy"?: NonNullable<Json>;
        };
        Relationships: [];
      };
      "voice_anomaly_logs": {
        Row: {
          "added_to_baseline": boolean;
          "adjusted_from": number;
          "alert_sent": boolean;
          "alert_type": Database["public"]["Enums"]["alert_type"] | null;
          "anomaly_score": number;
          "baseline_id": number | null;
          "baseline_version": number;
          "calibration_id": number | null;
          "call_log_id": string;
          "calls_per_year": number | null;
          "created_at": string;
          "cusum_after": number | null;
          "cusum_before": number | null;
          "decision_number": number | null;
          "embedding_id": number | null;
          "encoder": string;
          "expected_distance": number | null;
          "id": string;
          "is_clean": boolean | null;
          "is_disowned": boolean;
          "is_late": boolean;
          "is_learned": boolean;
          "is_provisional": boolean;
          "is_step": boolean;
          "local_day": string | null;
          "local_hour": number | null;
          "log_likelihood_ratio": number | null;
          "noise_adjusted": boolean;
          "normalized_score": number;
          "notes": string | null;
          "pace": Database["public"]["Enums"]["change_pace"] | null;
          "patient_id": string;
          "personal_deviation": number | null;
          "population_deviation": number | null;
          "raw_similarity": number;
          "reference_version": number | null;
          "rule": Database["public"]["Enums"]["scoring_rule"];
          "severity": Database["public"]["Enums"]["anomaly_severity"];
          "snr": number | null;
          "speech_seconds": number | null;
          "timestamp": string;
          "usual_degrees": number | null;
          "usual_mean": number | null;
          "usual_variance": number | null;
          "verdict": Database["public"]["Enums"]["voice_verdict"];
          "warnings_per_year": number | null;
          "whitened_deviation": number | null;
          "whitened_log_likelihood_ratio": number | null;
        };
        ComputedFields: never;
        Insert: {
          "added_to_baseline": boolean;
          "adjusted_from": number;
          "alert_sent"?: boolean;
          "alert_type"?: Database["public"]["Enums"]["alert_type"] | null;
          "anomaly_score": number;
          "baseline_id"?: number | null;
          "baseline_version": number;
          "calibration_id"?: number | null;
          "call_log_id": string;
          "calls_per_year"?: number | null;
          "created_at"?: string;
          "cusum_after"?: number | null;
          "cusum_before"?: number | null;
          "decision_number"?: number | null;
          "embedding_id"?: number | null;
          "encoder": string;
          "expected_distance"?: number | null;
          "id": string;
          "is_clean"?: boolean | null;
          "is_disowned"?: boolean;
          "is_late"?: boolean;
          "is_learned"?: boolean;
          "is_provisional": boolean;
          "is_step"?: boolean;
          "local_day"?: string | null;
          "local_hour"?: number | null;
          "log_likelihood_ratio"?: number | null;
          "noise_adjusted": boolean;
          "normalized_score": number;
          "notes"?: string | null;
          "pace"?: Database["public"]["Enums"]["change_pace"] | null;
          "patient_id": string;
          "personal_deviation"?: number | null;
          "population_deviation"?: number | null;
          "raw_similarity": number;
          "reference_version"?: number | null;
          "rule"?: Database["public"]["Enums"]["scoring_rule"];
          "severity": Database["public"]["Enums"]["anomaly_severity"];
          "snr"?: number | null;
          "speech_seconds"?: number | null;
          "timestamp": string;
          "usual_degrees"?: number | null;
          "usual_mean"?: number | null;
          "usual_variance"?: number | null;
          "verdict": Database["public"]["Enums"]["voice_verdict"];
          "warnings_per_year"?: number | null;
          "whitened_deviation"?: number | null;
          "whitened_log_likelihood_ratio"?: number | null;
        };
        Update: {
          "added_to_baseline"?: boolean;
          "adjusted_from"?: number;
          "alert_sent"?: boolean;
          "alert_type"?: Database["public"]["Enums"]["alert_type"] | null;
          "anomaly_score"?: number;
          "baseline_id"?: number | null;
          "baseline_version"?: number;
          "calibration_id"?: number | null;
          "call_log_id"?: string;
          "calls_per_year"?: number | null;
          "created_at"?: string;
          "cusum_after"?: number | null;
          "cusum_before"?: number | null;
          "decision_number"?: number | null;
          "embedding_id"?: number | null;
          "encoder"?: string;
          "expected_distance"?: number | null;
          "id"?: string;
          "is_clean"?: boolean | null;
          "is_disowned"?: boolean;
          "is_late"?: boolean;
          "is_learned"?: boolean;
          "is_provisional"?: boolean;
          "is_step"?: boolean;
          "local_day"?: string | null;
          "local_hour"?: number | null;
          "log_likelihood_ratio"?: number | null;
          "noise_adjusted"?: boolean;
          "normalized_score"?: number;
          "notes"?: string | null;
          "pace"?: Database["public"]["Enums"]["change_pace"] | null;
          "patient_id"?: string;
          "personal_deviation"?: number | null;
          "population_deviation"?: number | null;
          "raw_similarity"?: number;
          "reference_version"?: number | null;
          "rule"?: Database["public"]["Enums"]["scoring_rule"];
          "severity"?: Database["public"]["Enums"]["anomaly_severity"];
          "snr"?: number | null;
          "speech_seconds"?: number | null;
          "timestamp"?: string;
          "usual_degrees"?: number | null;
          "usual_mean"?: number | null;
          "usual_variance"?: number | null;
          "verdict"?: Database["public"]["Enums"]["voice_verdict"];
          "warnings_per_year"?: number | null;
          "whitened_deviation"?: number | null;
          "whitened_log_likelihood_ratio"?: number | null;
        };
        Relationships: [
          {
            foreignKeyName: "a_log_is_of_a_call";
            columns: ["call_log_id"];
            isOneToOne: false;
            referencedRelation: "call_logs";
            referencedColumns: ["id"];
          },
          {
            foreignKeyName: "a_log_is_of_a_call";
            columns: ["call_log_id"];
            isOneToOne: false;
            referencedRelation: "voice_timeline";
            referencedColumns: ["call_log_id"];
          },
          {
            foreignKeyName: "a_log_is_of_a_patient";
            columns: ["patient_id"];
            isOneToOne: false;
            referencedRelation: "caregiver_patients";
            referencedColumns: ["patient_id"];
          },
          {
            foreignKeyName: "a_log_is_of_a_patient";
            columns: ["patient_id"];
            isOneToOne: false;
            referencedRelation: "patients";
            referencedColumns: ["id"];
          },
          {
            foreignKeyName: "a_log_is_the_detail_of_a_judgement";
            columns: ["id"];
            isOneToOne: true;
            referencedRelation: "judgements";
            referencedColumns: ["id"];
          },
        ];
      };
    };
    Views: {
      "alert_deliveries": {
        Row: {
          "alert_id": string;
          "attempts": number;
          "call_log_id": string | null;
          "caregiver_id": string;
          "change_id": string;
          "channel": string;
          "created_at": string;
          "error_code": string | null;
          "finished_at": string | null;
          "id": number;
          "run_at": string;
          "state": Database["public"]["Enums"]["delivery_state"];
        };
        ComputedFields: never;
        Insert: {
          "alert_id"?: string | null;
          "attempts"?: number | null;
          "call_log_id"?: string | null;
          "caregiver_id"?: string | null;
          "change_id"?: string | null;
          "channel"?: string | null;
          "created_at"?: string | null;
          "error_code"?: string | null;
          "finished_at"?: string | null;
          "id"?: number | null;
          "run_at"?: string | null;
          "state"?: Database["public"]["Enums"]["delivery_state"] | null;
        };
        Update: {
          "alert_id"?: string | null;
          "attempts"?: number | null;
          "call_log_id"?: string | null;
          "caregiver_id"?: string | null;
          "change_id"?: string | null;
          "channel"?: string | null;
          "created_at"?: string | null;
          "error_code"?: string | null;
          "finished_at"?: string | null;
          "id"?: number | null;
          "run_at"?: string | null;
          "state"?: Database["public"]["Enums"]["delivery_state"] | null;
        };
        Relationships: [
          {
            foreignKeyName: "a_delivery_goes_to_a_caregiver";
            columns: ["caregiver_id"];
            isOneToOne: false;
            referencedRelation: "patient_caregivers";
            referencedColumns: ["id"];
          },
          {
            foreignKeyName: "a_delivery_is_about_an_alert";
            columns: ["alert_id"];
            isOneToOne: false;
            referencedRelation: "alert_history";
            referencedColumns: ["alert_id"];
          },
          {
            foreignKeyName: "a_delivery_is_about_an_alert";
            columns: ["alert_id"];
            isOneToOne: false;
            referencedRelation: "caregiver_alerts";
            referencedColumns: ["id"];
          },
          {
            foreignKeyName: "a_delivery_is_about_an_alert";
            columns: ["alert_id"];
            isOneToOne: false;
            referencedRelation: "caregiver_patients";
            referencedColumns: ["alert_id"];
          },
          {
            foreignKeyName: "a_delivery_keeps_its_call";
            columns: ["call_log_id"];
            isOneToOne: false;
            referencedRelation: "call_logs";
            referencedColumns: ["id"];
          },
          {
            foreignKeyName: "a_delivery_keeps_its_call";
            columns: ["call_log_id"];
            isOneToOne: false;
            referencedRelation: "voice_timeline";
            referencedColumns: ["call_log_id"];
          },
          {
            foreignKeyName: "a_delivery_tells_a_change";
            columns: ["change_id"];
            isOneToOne: false;
            referencedRelation: "alert_changes";
            referencedColumns: ["id"];
          },
        ];
      };
      "alert_history": {
        Row: {
          "acknowledged_at": string | null;
          "acknowledged_by": string | null;
          "alert_id": string;
          "anomaly_score": number | null;
          "call_log_id": string | null;
          "cause": string;
          "causes": (string)[];
          "change_count": number | null;
          "explanation": string | null;
          "is_urgent": boolean;
          "judgement_id": string | null;
          "known_as": string | null;
          "last_change": Database["public"]["Enums"]["alert_change"] | null;
          "last_changed_at": string | null;
          "last_changed_by": string | null;
          "last_raised_at": string;
          "level": Database["public"]["Enums"]["alert_level"];
          "likely_speaker": string | null;
          "notes": string | null;
          "opened_at": string;
          "opening_call_log_id": string | null;
          "opening_cause": string | null;
          "opening_judgement_id": string | null;
          "outcome": Database["public"]["Enums"]["alert_outcome"] | null;
          "patient_id": string;
          "repeat_count": number;
          "resolved_at": string | null;
          "resolved_by": string | null;
          "snoozed_until": string | null;
          "state": Database["public"]["Enums"]["alert_state"];
        };
        ComputedFields: never;
        Relationships: [
          {
            foreignKeyName: "a_change_has_a_known_cause";
            columns: ["opening_cause"];
            isOneToOne: false;
            referencedRelation: "alert_causes";
            referencedColumns: ["id"];
          },
          {
            foreignKeyName: "a_change_keeps_its_call";
            columns: ["opening_call_log_id"];
            isOneToOne: false;
            referencedRelation: "call_logs";
            referencedColumns: ["id"];
          },
          {
            foreignKeyName: "a_change_keeps_its_call";
            columns: ["opening_call_log_id"];
            isOneToOne: false;
            referencedRelation: "voice_timeline";
            referencedColumns: ["call_log_id"];
          },
          {
            foreignKeyName: "a_change_keeps_its_judgement";
            columns: ["opening_judgement_id"];
            isOneToOne: false;
            referencedRelation: "judgements";
            referencedColumns: ["id"];
          },
          {
            foreignKeyName: "an_alert_has_a_known_cause";
            columns: ["cause"];
            isOneToOne: false;
            referencedRelation: "alert_causes";
            referencedColumns: ["id"];
          },
          {
            foreignKeyName: "an_alert_is_about_a_patient";
            columns: ["patient_id"];
            isOneToOne: false;
            referencedRelation: "caregiver_patients";
            referencedColumns: ["patient_id"];
          },
          {
            foreignKeyName: "an_alert_is_about_a_patient";
            columns: ["patient_id"];
            isOneToOne: false;
            referencedRelation: "patients";
            referencedColumns: ["id"];
          },
          {
            foreignKeyName: "an_alert_keeps_its_worst_call";
            columns: ["call_log_id"];
            isOneToOne: false;
            referencedRelation: "call_logs";
            referencedColumns: ["id"];
          },
          {
            foreignKeyName: "an_alert_keeps_its_worst_call";
            columns: ["call_log_id"];
            isOneToOne: false;
            referencedRelation: "voice_timeline";
            referencedColumns: ["call_log_id"];
          },
          {
            foreignKeyName: "an_alert_keeps_its_worst_judgement";
            columns: ["judgement_id"];
            isOneToOne: false;
            referencedRelation: "judgements";
            referencedColumns: ["id"];
          },
        ];
      };
      "audit_trail": {
        Row: {
          "action": Database["public"]["Enums"]["audit_action"] | null;
          "actor_id": string | null;
          "actor_role": string | null;
          "detail": Json | null;
          "occurred_at": string | null;
          "patient_id": string | null;
          "subject": string | null;
        };
        ComputedFields: never;
        Relationships: [];
      };
      "caregiver_patients": {
        Row: {
          "alert_id": string | null;
          "alert_level": Database["public"]["Enums"]["alert_level"] | null;
          "alert_opened_at": string | null;
          "alert_state": Database["public"]["Enums"]["alert_state"] | null;
          "baseline_is_provisional": boolean | null;
          "baseline_samples": number | null;
          "baseline_target_samples": number | null;
          "known_as": string | null;
          "last_call_at": string | null;
          "last_score": number | null;
          "last_scored_at": string | null;
          "mean_score_30_days": number | null;
          "mean_score_7_days": number | null;
          "name": string | null;
          "patient_id": string;
          "role": Database["public"]["Enums"]["caregiver_role"];
          "score_count_30_days": number | null;
          "score_count_7_days": number | null;
          "severity": Database["public"]["Enums"]["anomaly_severity"] | null;
          "state": Database["public"]["Enums"]["patient_state"] | null;
          "timezone": string;
          "trend_30_days": number | null;
          "trend_7_days": number | null;
        };
        ComputedFields: never;
        Relationships: [];
      };
      "check_status": {
        Row: {
          "attempts": number;
          "call_log_id": string;
          "created_at": string;
          "finished_at": string | null;
          "model": string;
          "patient_id": string;
          "reason": Database["public"]["Enums"]["check_reason"] | null;
          "run_at": string;
          "signal": string;
          "state": Database["public"]["Enums"]["check_state"];
        };
        ComputedFields: never;
        Insert: {
          "attempts"?: number | null;
          "call_log_id"?: string | null;
          "created_at"?: string | null;
          "finished_at"?: string | null;
          "model"?: string | null;
          "patient_id"?: string | null;
          "reason"?: Database["public"]["Enums"]["check_reason"] | null;
          "run_at"?: string | null;
          "signal"?: string | null;
          "state"?: Database["public"]["Enums"]["check_state"] | null;
        };
        Update: {
          "attempts"?: number | null;
          "call_log_id"?: string | null;
          "created_at"?: string | null;
          "finished_at"?: string | null;
          "model"?: string | null;
          "patient_id"?: string | null;
          "reason"?: Database["public"]["Enums"]["check_reason"] | null;
          "run_at"?: string | null;
          "signal"?: string | null;
          "state"?: Database["public"]["Enums"]["check_state"] | null;
        };
        Relationships: [
          {
            foreignKeyName: "a_check_is_of_a_call";
            columns: ["call_log_id"];
            isOneToOne: false;
            referencedRelation: "call_logs";
            referencedColumns: ["id"];
          },
          {
            foreignKeyName: "a_check_is_of_a_call";
            columns: ["call_log_id"];
            isOneToOne: false;
            referencedRelation: "voice_timeline";
            referencedColumns: ["call_log_id"];
          },
          {
            foreignKeyName: "a_check_is_of_a_patient";
            columns: ["patient_id"];
            isOneToOne: false;
            referencedRelation: "caregiver_patients";
            referencedColumns: ["patient_id"];
          },
          {
            foreignKeyName: "a_check_is_of_a_patient";
            columns: ["patient_id"];
            isOneToOne: false;
            referencedRelation: "patients";
            referencedColumns: ["id"];
          },
        ];
      };
      "operator_issues": {
        Row: {
          "alert_id": string | null;
          "call_log_id": string | null;
          "code": string | null;
          "detail": string | null;
          "kind": Database["public"]["Enums"]["operator_issue_kind"] | null;
          "occurred_at": string | null;
          "patient_id": string | null;
          "subject": string | null;
        };
        ComputedFields: never;
        Relationships: [];
      };
      "patient_voice_baseline": {
        Row: {
          "baseline_minimum_samples": number;
          "baseline_target_samples": number | null;
          "created_at": string;
          "encoder": string;
          "is_provisional": boolean | null;
          "patient_id": string;
          "sample_count": number;
          "spread_deviation": number | null;
          "spread_mean": number | null;
          "version": number;
        };
        ComputedFields: never;
        Relationships: [
          {
            foreignKeyName: "a_baseline_is_of_a_patient";
            columns: ["patient_id"];
            isOneToOne: false;
            referencedRelation: "caregiver_patients";
            referencedColumns: ["patient_id"];
          },
          {
            foreignKeyName: "a_baseline_is_of_a_patient";
            columns: ["patient_id"];
            isOneToOne: false;
            referencedRelation: "patients";
            referencedColumns: ["id"];
          },
        ];
      };
      "pipeline_health": {
        Row: {
          "check_count": number | null;
          "due_count": number | null;
          "is_backfill": boolean;
          "last_finished_at": string | null;
          "lost_lease_count": number | null;
          "model": string;
          "oldest_waiting_since": string | null;
          "reason": Database["public"]["Enums"]["check_reason"] | null;
          "signal": string;
          "state": Database["public"]["Enums"]["check_state"];
        };
        ComputedFields: never;
        Relationships: [];
      };
      "recent_anomaly_logs": {
        Row: {
          "alert_sent": boolean;
          "alert_type": Database["public"]["Enums"]["alert_type"] | null;
          "anomaly_score": number;
          "call_log_id": string;
          "created_at": string;
          "id": string;
          "is_provisional": boolean;
          "known_as": string | null;
          "noise_adjusted": boolean;
          "normalized_score": number;
          "notes": string | null;
          "patient_id": string;
          "raw_similarity": number;
          "rule": Database["public"]["Enums"]["scoring_rule"];
          "severity": Database["public"]["Enums"]["anomaly_severity"];
          "snr": number | null;
          "timestamp": string;
          "verdict": Database["public"]["Enums"]["voice_verdict"];
        };
        ComputedFields: never;
        Relationships: [
          {
            foreignKeyName: "a_log_is_of_a_call";
            columns: ["call_log_id"];
            isOneToOne: false;
            referencedRelation: "call_logs";
            referencedColumns: ["id"];
          },
          {
            foreignKeyName: "a_log_is_of_a_call";
            columns: ["call_log_id"];
            isOneToOne: false;
            referencedRelation: "voice_timeline";
            referencedColumns: ["call_log_id"];
          },
          {
            foreignKeyName: "a_log_is_of_a_patient";
            columns: ["patient_id"];
            isOneToOne: false;
            referencedRelation: "caregiver_patients";
            referencedColumns: ["patient_id"];
          },
          {
            foreignKeyName: "a_log_is_of_a_patient";
            columns: ["patient_id"];
            isOneToOne: false;
            referencedRelation: "patients";
            referencedColumns: ["id"];
          },
          {
            foreignKeyName: "a_log_is_the_detail_of_a_judgement";
            columns: ["id"];
            isOneToOne: true;
            referencedRelation: "judgements";
            referencedColumns: ["id"];
          },
        ];
      };
      "silent_patients": {
        Row: {
          "cause": string | null;
          "last_heard_at": string | null;
          "patient_id": string | null;
          "silent_days": number | null;
          "unusable_calls": number | null;
        };
        ComputedFields: never;
        Relationships: [];
      };
      "voice_timeline": {
        Row: {
          "call_log_id": string;
          "called_at": string;
          "days_since_previous": number | null;
          "explanation": string | null;
          "is_provisional": boolean | null;
          "is_urgent": boolean | null;
          "likely_speaker": string | null;
          "local_time": string | null;
          "log_id": string | null;
          "notes": string | null;
          "outcome": Database["public"]["Enums"]["check_state"] | null;
          "pace": Database["public"]["Enums"]["change_pace"] | null;
          "patient_id": string;
          "quality": Json | null;
          "reason": Database["public"]["Enums"]["check_reason"] | null;
          "reasons": (string)[] | null;
          "rule": Database["public"]["Enums"]["scoring_rule"] | null;
          "score": number | null;
          "severity": Database["public"]["Enums"]["anomaly_severity"] | null;
          "similarity": number | null;
          "snr_db": number | null;
          "usual_from": number | null;
          "usual_until": number | null;
          "verdict": Database["public"]["Enums"]["voice_verdict"] | null;
        };
        ComputedFields: never;
        Relationships: [
          {
            foreignKeyName: "a_call_is_with_a_patient";
            columns: ["patient_id"];
            isOneToOne: false;
            referencedRelation: "caregiver_patients";
            referencedColumns: ["patient_id"];
          },
          {
            foreignKeyName: "a_call_is_with_a_patient";
            columns: ["patient_id"];
            isOneToOne: false;
            referencedRelation: "patients";
            referencedColumns: ["id"];
          },
          {
            foreignKeyName: "a_log_is_the_detail_of_a_judgement";
            columns: ["log_id"];
            isOneToOne: true;
            referencedRelation: "judgements";
            referencedColumns: ["id"];
          },
        ];
      };
    };
    Functions: {
      "acknowledge_alert": {
        Args: { "alert_id": string };
        Returns: {
          "acknowledged_at": string | null;
          "acknowledged_by": string | null;
          "anomaly_score": number | null;
          "call_log_id": string | null;
          "cause": string;
          "causes": (string)[];
          "id": string;
          "is_urgent": boolean;
          "judgement_id": string | null;
          "last_raised_at": string;
          "level": Database["public"]["Enums"]["alert_level"];
          "next_change_at": string | null;
          "notes": string | null;
          "opened_at": string;
          "outcome": Database["public"]["Enums"]["alert_outcome"] | null;
          "patient_id": string;
          "reminder_count": number;
          "repeat_count": number;
          "resolved_at": string | null;
          "resolved_by": string | null;
          "snoozed_until": string | null;
          "state": Database["public"]["Enums"]["alert_state"];
        };
        SetofOptions: {
          from: "*";
          to: "caregiver_alerts";
          isOneToOne: true;
          isSetofReturn: false;
        };
      };
      "add_caregiver": {
        Args: {
          "name": string;
          "patient_id": string;
          "patient_known_as"?: string | null;
          "phone"?: string | null;
          "role": Database["public"]["Enums"]["caregiver_role"];
          "user_id"?: string | null;
          "webhook_url"?: string | null;
        };
        Returns: {
          "created_at": string;
          "id": string;
          "language": string;
          "name": string | null;
          "other_addresses": NonNullable<Json>;
          "patient_id": string;
          "patient_known_as": string | null;
          "phone": string | null;
          "quiet_from": string | null;
          "quiet_until": string | null;
          "role": Database["public"]["Enums"]["caregiver_role"];
          "timezone": string | null;
          "user_id": string | null;
          "webhook_url": string | null;
        };
        SetofOptions: {
          from: "*";
          to: "patient_caregivers";
          isOneToOne: true;
          isSetofReturn: false;
        };
      };
      "change_caregiver": {
        Args: {
          "caregiver_id": string;
          "name": string;
          "patient_known_as": string | null;
          "phone": string | null;
          "role": Database["public"]["Enums"]["caregiver_role"];
          "user_id": string | null;
          "webhook_url": string | null;
        };
        Returns: {
          "created_at": string;
          "id": string;
          "language": string;
          "name": string | null;
          "other_addresses": NonNullable<Json>;
          "patient_id": string;
          "patient_known_as": string | null;
          "phone": string | null;
          "quiet_from": string | null;
          "quiet_until": string | null;
          "role": Database["public"]["Enums"]["caregiver_role"];
          "timezone": string | null;
          "user_id": string | null;
          "webhook_url": string | null;
        };
        SetofOptions: {
          from: "*";
          to: "patient_caregivers";
          isOneToOne: true;
          isSetofReturn: false;
        };
      };
      "claim_deletions": {
        Args: { "at"?: string; "count": number; "lease_seconds": number; "worker": string };
        Returns: Database["public"]["CompositeTypes"]["deletion_claim"][];
        SetofOptions: {
          from: "*";
          to: "deletion_claim";
          isOneToOne: false;
          isSetofReturn: true;
        };
      };
      "claim_deliveries": {
        Args: { "at"?: string; "count": number; "lease_seconds": number; "worker": string };
        Returns: Database["public"]["CompositeTypes"]["delivery_claim"][];
        SetofOptions: {
          from: "*";
          to: "delivery_claim";
          isOneToOne: false;
          isSetofReturn: true;
        };
      };
      "claim_receipts": {
        Args: { "at"?: string; "count": number };
        Returns: Database["public"]["CompositeTypes"]["receipt_claim"][];
        SetofOptions: {
          from: "*";
          to: "receipt_claim";
          isOneToOne: false;
          isSetofReturn: true;
        };
      };
      "claim_recordings": {
        Args: {
          "at"?: string;
          "call_log_id"?: string | null;
          "count": number;
          "lease_seconds": number;
          "worker": string;
        };
        Returns: Database["public"]["CompositeTypes"]["recording_claim"][];
        SetofOptions: {
          from: "*";
          to: "recording_claim";
          isOneToOne: false;
          isSetofReturn: true;
        };
      };
      "erase_patient": { Args: { "patient_id": string; "reason": string }; Returns: Json };
      "erase_patient_voice": { Args: { "patient_id": string; "reason": string }; Returns: Json };
      "export_patient": { Args: { "patient_id": string }; Returns: Json };
      "fail_deletion": {
        Args: { "at"?: string; "code": string; "deletion_id": number; "lease_token": string };
        Returns: undefined;
      };
      "fail_delivery": {
        Args: {
          "at"?: string;
          "code": string;
          "delivery_id": number;
          "is_permanent": boolean;
          "lease_token": string;
          "may_have_been_sent"?: boolean;
          "message": string;
        };
        Returns: Database["public"]["Enums"]["delivery_state"];
      };
      "fail_recording": {
        Args: {
          "at"?: string;
          "call_log_id": string;
          "code": string;
          "is_permanent": boolean;
          "lease_token": string;
          "message": string;
        };
        Returns: Database["public"]["Enums"]["recording_state"];
      };
      "finish_deletion": { Args: { "at"?: string; "deletion_id": number; "lease_token": string }; Returns: boolean };
      "finish_delivery": {
        Args: { "at"?: string; "delivery_id": number; "lease_token": string; "provider_message_id"?: string | null };
        Returns: boolean;
      };
      "finish_receipt": {
        Args: { "at"?: string; "delivery_id": number; "is_delivered": boolean; "message"?: string | null };
        Returns: Database["public"]["Enums"]["delivery_state"];
      };
      "finish_reconciliation": {
        Args: { "account"?: string | null; "provider": string; "until": string };
        Returns: undefined;
      };
      "match_voices": {
        Args: { "count"?: number; "embedding": string; "encoder"?: string | null; "min_similarity"?: number | null };
        Returns: Database["public"]["CompositeTypes"]["voice_match"][];
        SetofOptions: {
          from: "*";
          to: "voice_match";
          isOneToOne: false;
          isSetofReturn: true;
        };
      };
      "read_recording": { Args: { "call_log_id": string }; Returns: string };
      "receive_call_report": {
        Args: {
          "account"?: string | null;
          "at"?: string;
          "ended_at"?: string | null;
          "ended_reason"?: string | null;
          "is_recording_consented"?: boolean | null;
          "patient_id"?: string | null;
          "phone"?: string | null;
          "provider": string;
          "provider_call_id": string;
          "recording_url"?: string | null;
          "recording_url_channel"?: string | null;
          "recording_url_expires_at"?: string | null;
          "speech_intervals"?: Json | null;
          "started_at"?: string | null;
          "summary"?: string | null;
        };
        Returns: Database["public"]["CompositeTypes"]["received_call"];
        SetofOptions: {
          from: "*";
          to: "received_call";
          isOneToOne: true;
          isSetofReturn: false;
        };
      };
      "reconcile_since": { Args: { "account"?: string | null; "at"?: string; "provider": string }; Returns: string };
      "record_consent": {
        Args: { "evidence": string; "given_at"?: string; "patient_id": string; "scope"?: string };
        Returns: {
          "created_at": string;
          "evidence": string;
          "given_at": string;
          "id": string;
          "patient_id": string;
          "recorded_by": string | null;
          "scope": string;
          "withdrawn_at": string | null;
          "withdrawn_by": string | null;
        };
        SetofOptions: {
          from: "*";
          to: "consents";
          isOneToOne: true;
          isSetofReturn: false;
        };
      };
      "remove_caregiver": { Args: { "caregiver_id": string }; Returns: undefined };
      "replay_policy": {
        Args: { "changes"?: Json; "organisation_id"?: string | null; "patient_id"?: string | null };
        Returns: Json;
      };
      "resolve_alert": {
        Args: { "alert_id": string; "notes"?: string | null; "outcome": Database["public"]["Enums"]["alert_outcome"] };
        Returns: {
          "acknowledged_at": string | null;
          "acknowledged_by": string | null;
          "anomaly_score": number | null;
          "call_log_id": string | null;
          "cause": string;
          "causes": (string)[];
          "id": string;
          "is_urgent": boolean;
          "judgement_id": string | null;
          "last_raised_at": string;
          "level": Database["public"]["Enums"]["alert_level"];
          "next_change_at": string | null;
          "notes": string | null;
          "opened_at": string;
          "outcome": Database["public"]["Enums"]["alert_outcome"] | null;
          "patient_id": string;
          "reminder_count": number;
          "repeat_count": number;
          "resolved_at": string | null;
          "resolved_by": string | null;
          "snoozed_until": string | null;
          "state": Database["public"]["Enums"]["alert_state"];
        };
        SetofOptions: {
          from: "*";
          to: "caregiver_alerts";
          isOneToOne: true;
          isSetofReturn: false;
        };
      };
      "run_job": { Args: { "at"?: string; "job": string }; Returns: number };
      "set_my_preferences": {
        Args: {
          "language": string | null;
          "patient_id": string;
          "patient_known_as": string | null;
          "quiet_from": string | null;
          "quiet_until": string | null;
          "timezone": string | null;
        };
        Returns: {
          "created_at": string;
          "id": string;
          "language": string;
          "name": string | null;
          "other_addresses": NonNullable<Json>;
          "patient_id": string;
          "patient_known_as": string | null;
          "phone": string | null;
          "quiet_from": string | null;
          "quiet_until": string | null;
          "role": Database["public"]["Enums"]["caregiver_role"];
          "timezone": string | null;
          "user_id": string | null;
          "webhook_url": string | null;
        };
        SetofOptions: {
          from: "*";
          to: "patient_caregivers";
          isOneToOne: true;
          isSetofReturn: false;
        };
      };
      "set_organisation_warnings": {
        Args: { "organisation_id"?: string; "warnings_per_year": number };
        Returns: number;
      };
      "set_warnings_per_year": { Args: { "patient_id": string; "warnings_per_year": number }; Returns: number };
      "snooze_alert": {
        Args: { "alert_id": string; "until": string };
        Returns: {
          "acknowledged_at": string | null;
          "acknowledged_by": string | null;
          "anomaly_score": number | null;
          "call_log_id": string | null;
          "cause": string;
          "causes": (string)[];
          "id": string;
          "is_urgent": boolean;
          "judgement_id": string | null;
          "last_raised_at": string;
          "level": Database["public"]["Enums"]["alert_level"];
          "next_change_at": string | null;
          "notes": string | null;
          "opened_at": string;
          "outcome": Database["public"]["Enums"]["alert_outcome"] | null;
          "patient_id": string;
          "reminder_count": number;
          "repeat_count": number;
          "resolved_at": string | null;
          "resolved_by": string | null;
          "snoozed_until": string | null;
          "state": Database["public"]["Enums"]["alert_state"];
        };
        SetofOptions: {
          from: "*";
          to: "caregiver_alerts";
          isOneToOne: true;
          isSetofReturn: false;
        };
      };
      "store_recording": {
        Args: {
          "call_log_id": string;
          "lease_token": string;
          "recording_channel": string;
          "recording_ref": string;
          "speech_intervals"?: Json | null;
        };
        Returns: boolean;
      };
      "unreported_calls": {
        Args: { "account"?: string | null; "provider": string; "provider_call_ids": (string)[] };
        Returns: string[];
      };
      "upsert_call": {
        Args: {
          "account"?: string | null;
          "ended_reason"?: string | null;
          "occurred_at"?: string | null;
          "patient_id": string;
          "provider": string;
          "provider_call_id": string;
          "recording_channel"?: Database["public"]["Enums"]["recording_channel"] | null;
          "recording_ref"?: string | null;
          "summary"?: string | null;
        };
        Returns: string;
      };
      "warning_budget_list": {
        Args: { "patient_id"?: string | null };
        Returns: {
          "cost": string;
          "is_chosen": boolean;
          "name": string;
          "warnings_per_year": number;
        }[];
      };
      "withdraw_consent": { Args: { "patient_id": string; "scope"?: string }; Returns: undefined };
    };
    Enums: {
      "alert_actor": "rule" | "caregiver" | "operator";
      "alert_change":
        | "opened"
        | "raised"
        | "repeated"
        | "escalated"
        | "reminded"
        | "acknowledged"
        | "snoozed"
        | "woken"
        | "reopened"
        | "resolved";
      "alert_level": "warning" | "emergency" | "critical";
      "alert_outcome": "ill" | "not_ill" | "other_person" | "wrong_recording" | "new_line" | "other";
      "alert_state": "open" | "escalated" | "acknowledged" | "snoozed" | "resolved";
      "alert_type": "warning" | "emergency";
      "anomaly_severity": "low" | "medium" | "high" | "critical";
      "audit_action":
        | "inserted"
        | "updated"
        | "deleted"
        | "consent_given"
        | "consent_withdrawn"
        | "signal_erased"
        | "person_erased"
        | "erasure_replayed"
        | "deletion_finished"
        | "retention_enforced"
        | "exported"
        | "recording_read"
        | "voice_matched"
        | "key_used";
      "call_disposition": "judge" | "skip" | "unknown" | "unmatched" | "erased";
      "call_source": "provider" | "api" | "upload" | "onboarding" | "archive";
      "caregiver_role": "viewer" | "family" | "clinician" | "primary";
      "change_pace": "sudden" | "sustained";
      "check_reason":
        | "no_speech"
        | "too_little_speech"
        | "too_noisy"
        | "clipped"
        | "ambiguous_channel"
        | "undecodable"
        | "too_long"
        | "sick_without_baseline"
        | "sick_at_enrolment"
        | "no_consent"
        | "duplicate_recording"
        | "voicemail"
        | "not_answered"
        | "nobody_spoke"
        | "call_failed"
        | "ended_reason_unknown"
        | "recording_unavailable"
        | "recording_expired"
        | "processing_failed"
        | "attempts_exhausted"
        | "upload_lost";
      "check_state":
        | "queued"
        | "leased"
        | "scored"
        | "enrolled"
        | "held"
        | "embedded"
        | "not_assessable"
        | "skipped"
        | "dead";
      "deletion_kind": "storage_object" | "provider_call";
      "deletion_state": "queued" | "leased" | "done";
      "delivery_state": "queued" | "leased" | "accepted" | "cancelled" | "dead";
      "operator_issue_kind":
        | "unmatched_call"
        | "unknown_ended_reason"
        | "recording_delayed"
        | "recording_lost"
        | "check_dead"
        | "backfill_dead"
        | "delivery_delayed"
        | "delivery_dead"
        | "alert_untold"
        | "alert_unanswered"
        | "recordings_unusable"
        | "deletion_delayed"
        | "job_failed"
        | "jobs_late";
      "patient_state": "as_usual" | "changed" | "not_assessable" | "collecting_baseline" | "no_recent_call";
      "recording_channel": "customer" | "left" | "right" | "mono" | "mixed" | "stereo";
      "recording_state": "queued" | "leased" | "stored" | "refused" | "expired";
      "scoring_rule": "fixed" | "calibrated";
      "voice_verdict": "as_usual" | "changed" | "another_voice";
    };
    CompositeTypes: {
      "deletion_claim": {
        "deletion_id": number | null;
        "kind": Database["public"]["Enums"]["deletion_kind"] | null;
        "reference": string | null;
        "attempts": number | null;
        "lease_token": string | null;
      };
      "delivery_claim": {
        "delivery_id": number | null;
        "idempotency_key": string | null;
        "lease_token": string | null;
        "channel": string | null;
        "address": string | null;
        "message": string | null;
        "level": Database["public"]["Enums"]["alert_level"] | null;
        "change": Database["public"]["Enums"]["alert_change"] | null;
        "alert_id": string | null;
        "call_log_id": string | null;
        "patient_id": string | null;
        "attempts": number | null;
        "may_have_been_sent": boolean | null;
        "created_at": string | null;
      };
      "receipt_claim": {
        "delivery_id": number | null;
        "call_log_id": string | null;
        "channel": string | null;
        "provider_message_id": string | null;
      };
      "received_call": {
        "call_log_id": string | null;
        "disposition": Database["public"]["Enums"]["call_disposition"] | null;
        "is_new": boolean | null;
      };
      "recording_claim": {
        "call_log_id": string | null;
        "patient_id": string | null;
        "provider": string | null;
        "provider_account": string | null;
        "provider_call_id": string | null;
        "source_url": string | null;
        "source_channel": string | null;
        "source_expires_at": string | null;
        "object_path": string | null;
        "speech_intervals": Json | null;
        "attempts": number | null;
        "lease_token": string | null;
      };
      "voice_match": {
        "patient_id": string | null;
        "cosine_similarity": number | null;
        "baseline_version": number | null;
        "sample_count": number | null;
        "is_provisional": boolean | null;
      };
    };
  };
};

type DatabaseWithoutInternals = Omit<Database, "__InternalSupabase">;

type DefaultSchema = DatabaseWithoutInternals[Extract<keyof Database, "public">];

export type Tables<
  DefaultSchemaTableNameOrOptions extends
    | keyof (DefaultSchema["Tables"] & DefaultSchema["Views"])
    | { schema: keyof DatabaseWithoutInternals },
  TableName extends DefaultSchemaTableNameOrOptions extends {
    schema: keyof DatabaseWithoutInternals;
  } ? keyof (
      & DatabaseWithoutInternals[DefaultSchemaTableNameOrOptions["schema"]]["Tables"]
      & DatabaseWithoutInternals[DefaultSchemaTableNameOrOptions["schema"]]["Views"]
    )
    : never = never,
> = DefaultSchemaTableNameOrOptions extends { schema: keyof DatabaseWithoutInternals } ? (
    & DatabaseWithoutInternals[DefaultSchemaTableNameOrOptions["schema"]]["Tables"]
    & DatabaseWithoutInternals[DefaultSchemaTableNameOrOptions["schema"]]["Views"]
  )[TableName] extends {
    Row: infer R;
  } ? R
  : never
  : DefaultSchemaTableNameOrOptions extends keyof (DefaultSchema["Tables"] & DefaultSchema["Views"])
    ? (DefaultSchema["Tables"] & DefaultSchema["Views"])[DefaultSchemaTableNameOrOptions] extends {
      Row: infer R;
    } ? R
    : never
  : never;

export type TablesInsert<
  DefaultSchemaTableNameOrOptions extends
    | keyof DefaultSchema["Tables"]
    | { schema: keyof DatabaseWithoutInternals },
  TableName extends DefaultSchemaTableNameOrOptions extends {
    schema: keyof DatabaseWithoutInternals;
  } ? keyof DatabaseWithoutInternals[DefaultSchemaTableNameOrOptions["schema"]]["Tables"]
    : never = never,
> = DefaultSchemaTableNameOrOptions extends { schema: keyof DatabaseWithoutInternals }
  ? DatabaseWithoutInternals[DefaultSchemaTableNameOrOptions["schema"]]["Tables"][TableName] extends {
    Insert: infer I;
  } ? I
  : never
  : DefaultSchemaTableNameOrOptions extends keyof DefaultSchema["Tables"]
    ? DefaultSchema["Tables"][DefaultSchemaTableNameOrOptions] extends {
      Insert: infer I;
    } ? I
    : never
  : never;

export type TablesUpdate<
  DefaultSchemaTableNameOrOptions extends
    | keyof DefaultSchema["Tables"]
    | { schema: keyof DatabaseWithoutInternals },
  TableName extends DefaultSchemaTableNameOrOptions extends {
    schema: keyof DatabaseWithoutInternals;
  } ? keyof DatabaseWithoutInternals[DefaultSchemaTableNameOrOptions["schema"]]["Tables"]
    : never = never,
> = DefaultSchemaTableNameOrOptions extends { schema: keyof DatabaseWithoutInternals }
  ? DatabaseWithoutInternals[DefaultSchemaTableNameOrOptions["schema"]]["Tables"][TableName] extends {
    Update: infer U;
  } ? U
  : never
  : DefaultSchemaTableNameOrOptions extends keyof DefaultSchema["Tables"]
    ? DefaultSchema["Tables"][DefaultSchemaTableNameOrOptions] extends {
      Update: infer U;
    } ? U
    : never
  : never;

export type Enums<
  DefaultSchemaEnumNameOrOptions extends
    | keyof DefaultSchema["Enums"]
    | { schema: keyof DatabaseWithoutInternals },
  EnumName extends DefaultSchemaEnumNameOrOptions extends {
    schema: keyof DatabaseWithoutInternals;
  } ? keyof DatabaseWithoutInternals[DefaultSchemaEnumNameOrOptions["schema"]]["Enums"]
    : never = never,
> = DefaultSchemaEnumNameOrOptions extends { schema: keyof DatabaseWithoutInternals }
  ? DatabaseWithoutInternals[DefaultSchemaEnumNameOrOptions["schema"]]["Enums"][EnumName]
  : DefaultSchemaEnumNameOrOptions extends keyof DefaultSchema["Enums"]
    ? DefaultSchema["Enums"][DefaultSchemaEnumNameOrOptions]
  : never;

export type CompositeTypes<
  PublicCompositeTypeNameOrOptions extends
    | keyof DefaultSchema["CompositeTypes"]
    | { schema: keyof DatabaseWithoutInternals },
  CompositeTypeName extends PublicCompositeTypeNameOrOptions extends {
    schema: keyof DatabaseWithoutInternals;
  } ? keyof DatabaseWithoutInternals[PublicCompositeTypeNameOrOptions["schema"]]["CompositeTypes"]
    : never = never,
> = PublicCompositeTypeNameOrOptions extends { schema: keyof DatabaseWithoutInternals }
  ? DatabaseWithoutInternals[PublicCompositeTypeNameOrOptions["schema"]]["CompositeTypes"][CompositeTypeName]
  : PublicCompositeTypeNameOrOptions extends keyof DefaultSchema["CompositeTypes"]
    ? DefaultSchema["CompositeTypes"][PublicCompositeTypeNameOrOptions]
  : never;

export const Constants = {
  "public": {
    Enums: {
      "alert_actor": ["rule", "caregiver", "operator"],
      "alert_change": [
        "opened",
        "raised",
        "repeated",
        "escalated",
        "reminded",
        "acknowledged",
        "snoozed",
        "woken",
        "reopened",
        "resolved",
      ],
      "alert_level": ["warning", "emergency", "critical"],
      "alert_outcome": ["ill", "not_ill", "other_person", "wrong_recording", "new_line", "other"],
      "alert_state": ["open", "escalated", "acknowledged", "snoozed", "resolved"],
      "alert_type": ["warning", "emergency"],
      "anomaly_severity": ["low", "medium", "high", "critical"],
      "audit_action": [
        "inserted",
        "updated",
        "deleted",
        "consent_given",
        "consent_withdrawn",
        "signal_erased",
        "person_erased",
        "erasure_replayed",
        "deletion_finished",
        "retention_enforced",
        "exported",
        "recording_read",
        "voice_matched",
        "key_used",
      ],
      "call_disposition": ["judge", "skip", "unknown", "unmatched", "erased"],
      "call_source": ["provider", "api", "upload", "onboarding", "archive"],
      "caregiver_role": ["viewer", "family", "clinician", "primary"],
      "change_pace": ["sudden", "sustained"],
      "check_reason": [
        "no_speech",
        "too_little_speech",
        "too_noisy",
        "clipped",
        "ambiguous_channel",
        "undecodable",
        "too_long",
        "sick_without_baseline",
        "sick_at_enrolment",
        "no_consent",
        "duplicate_recording",
        "voicemail",
        "not_answered",
        "nobody_spoke",
        "call_failed",
        "ended_reason_unknown",
        "recording_unavailable",
        "recording_expired",
        "processing_failed",
        "attempts_exhausted",
        "upload_lost",
      ],
      "check_state": [
        "queued",
        "leased",
        "scored",
        "enrolled",
        "held",
        "embedded",
        "not_assessable",
        "skipped",
        "dead",
      ],
      "deletion_kind": ["storage_object", "provider_call"],
      "deletion_state": ["queued", "leased", "done"],
      "delivery_state": ["queued", "leased", "accepted", "cancelled", "dead"],
      "operator_issue_kind": [
        "unmatched_call",
        "unknown_ended_reason",
        "recording_delayed",
        "recording_lost",
        "check_dead",
        "backfill_dead",
        "delivery_delayed",
        "delivery_dead",
        "alert_untold",
        "alert_unanswered",
        "recordings_unusable",
        "deletion_delayed",
        "job_failed",
        "jobs_late",
      ],
      "patient_state": ["as_usual", "changed", "not_assessable", "collecting_baseline", "no_recent_call"],
      "recording_channel": ["customer", "left", "right", "mono", "mixed", "stereo"],
      "recording_state": ["queued", "leased", "stored", "refused", "expired"],
      "scoring_rule": ["fixed", "calibrated"],
      "voice_verdict": ["as_usual", "changed", "another_voice"],
    },
  },
} as const;
