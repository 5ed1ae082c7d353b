/** The channels, by their ids in care.delivery_channels. Another one is a file beside these, and a line here. */
export { console } from "./channels/console.ts";
export { sms } from "./channels/sms.ts";
export { webhook } from "./channels/webhook.ts";
