/** End-of-call reports as Vapi sends them. */
import { CALL, PHONE } from "./records.ts";
import type { Json } from "./serving.ts";

export const MESSAGES = [
  { role: "system", message: "Be kind.", time: 1763629200000, secondsFromStart: 0 },
  { role: "bot", message: "Good morning.", time: 1763629201000, endTime: 1763629203000, secondsFromStart: 1 },
  { role: "user", message: "Hello.", time: 1763629204000, endTime: 1763629205500, secondsFromStart: 4, duration: 1500 },
  { role: "user", message: "I am well.", time: 1763629210250, endTime: 1763629212500.5, secondsFromStart: 10.25 },
];

/** A report as of 2026: everything is on `artifact`, and URLs are signed. */
export function report(artifact: Json = {}, named: Json = {}): { message: Json } {
  return {
    message: {
      type: "end-of-call-report",
      timestamp: 1763629500000,
      endedReason: "customer-ended-call",
      startedAt: "2026-11-20T09:00:00.000Z",
      endedAt: "2026-11-20T09:05:00.000Z",
      call: { id: CALL, type: "outboundPhoneCall", status: "ended" },
      customer: { number: PHONE, name: "Ana Albuquerque" },
      analysis: { summary: "Ana felt well." },
      artifact: { messages: MESSAGES, transcript: "AI: Good morning.\nUser: Hello.", ...artifact },
      ...named,
    },
  };
}
