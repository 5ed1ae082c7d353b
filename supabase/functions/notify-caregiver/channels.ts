/** The channels by name, as care.delivery_channels has them. Another one is a file beside these, and a line here. */
export { console } from "./channels/console.ts";
export { sms } from "./channels/sms.ts";
export { webhook } from "./channels/webhook.ts";
