//! The parts that Stripe's objects share: the place, the fleet card's prompts, the fuel. All of it may be null.

use serde::Deserialize;

use crate::domain::card::{Fill, Merchant, Product, Prompts};
use crate::http::payments::fields::{self, Loose, kept, kept_id};

#[derive(Deserialize, Default)]
pub struct MerchantData {
    category_code: Option<String>,
    name: Option<String>,
    city: Option<String>,
    postal_code: Option<String>,
    country: Option<String>,
    network_id: Option<String>,
    terminal_id: Option<String>,
}

impl MerchantData {
    pub fn merchant(self) -> Merchant {
        Merchant {
            network_id: kept_id(self.network_id),
            terminal_id: kept_id(self.terminal_id),
            name: kept(self.name),
            category_code: kept(self.category_code),
            city: kept(self.city),
            postal_code: kept(self.postal_code),
            country: kept(self.country),
            position: None,
        }
    }
}

#[derive(Deserialize, Default)]
pub struct Fleet {
    cardholder_prompt_data: Option<PromptData>,
}

/// The network does not say in which unit the odometer was keyed in; it is what the customer reads off the car.
#[derive(Deserialize, Default)]
struct PromptData {
    driver_id: Option<Loose>,
    vehicle_number: Option<Loose>,
    odometer: Option<Loose>,
}

impl Fleet {
    pub fn prompts(self) -> Prompts {
        let keyed = self.cardholder_prompt_data.unwrap_or_default();
        let number = |loose: Loose| loose.text().and_then(|text| text.parse::<f64>().ok());
        Prompts {
            odometer_km: keyed.odometer.and_then(number).and_then(fields::km),
            driver_id: kept(keyed.driver_id.and_then(|loose| loose.text())),
            vehicle_number: kept(keyed.vehicle_number.and_then(|loose| loose.text())),
        }
    }
}

/// Decimals come as texts.
#[derive(Deserialize, Default)]
pub struct Fuel {
    #[serde(rename = "type")]
    kind: Option<String>,
    quantity_decimal: Option<Loose>,
    unit: Option<String>,
}

impl Fuel {
    pub fn fill(self) -> Fill {
        let product = match (self.kind.as_deref().map(fields::product), self.unit.as_deref()) {
            (Some(Product::Other), Some("kilowatt_hour" | "charging_minute")) => Some(Product::Electricity),
            (product, _) => product,
        };
        let quantity = self.quantity_decimal.and_then(|loose| loose.text());
        Fill { product, litres: fields::in_litres(quantity.as_deref(), self.unit.as_deref()) }
    }
}
