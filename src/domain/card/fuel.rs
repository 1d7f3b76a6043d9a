//! What a vehicle runs on, read from the free text that operators write.

use super::Product;

/// The products a vehicle takes; empty = the text says nothing we understand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Takes(Vec<Product>);

/// Words of a fuel type, in the languages fleets write them in, and what a vehicle of that kind takes. A hybrid says
/// what it burns in another word, or may burn either; gas cars start on petrol.
const WORDS: [(&[&str], &[Product]); 9] = [
    (
        &[
            "petrol",
            "gasoline",
            "unleaded",
            "benzin",
            "benzina",
            "benzine",
            "bensin",
            "essence",
            "gasolina",
            "super",
            "e5",
            "e10",
            "e85",
            "flex",
            "flexfuel",
            "sp95",
            "sp98",
            "regular",
            "premium",
            "ガソリン",
            "レギュラー",
            "ハイオク",
        ],
        &[Product::Petrol],
    ),
    (
        &["diesel", "gasoil", "gasoleo", "gasóleo", "gasolio", "gazole", "gasóil", "derv", "hvo", "tdi", "b7", "軽油"],
        &[Product::Diesel, Product::Adblue],
    ),
    (&["lpg", "autogas", "gpl", "propane", "petroleum"], &[Product::Lpg, Product::Petrol]),
    (&["cng", "natural", "erdgas", "methane", "metano", "biogas", "biomethane"], &[Product::Cng, Product::Petrol]),
    (&["hydrogen", "h2", "fcev", "wasserstoff", "水素"], &[Product::Hydrogen]),
    (
        &["electric", "electricity", "bev", "ev", "elektro", "elektrisch", "electrique", "électrique", "電気"],
        &[Product::Electricity],
    ),
    (&["phev", "plugin", "plug"], &[Product::Electricity]),
    (&["erev", "rex"], &[Product::Electricity, Product::Petrol]),
    (&["adblue", "def"], &[Product::Adblue]),
];
const HYBRIDS: [&str; 7] = ["hybrid", "hev", "mhev", "phev", "plugin", "plug", "ハイブリッド"];

impl Takes {
    pub fn of(fuel_type: &str) -> Self {
        let lower = fuel_type.to_lowercase();
        let words: Vec<&str> =
            lower.split(|c: char| !c.is_alphanumeric() && c != 'ー').filter(|w| !w.is_empty()).collect();
        let mut takes = Self::default();
        for (names, products) in WORDS {
            if words.iter().any(|word| names.contains(word)) {
                takes.add(products);
            }
        }
        let is_hybrid = words.iter().any(|word| HYBRIDS.contains(word));
        if is_hybrid && !takes.includes(Product::Petrol) && !takes.includes(Product::Diesel) {
            takes.add(&[Product::Petrol, Product::Diesel, Product::Adblue]);
        }
        takes
    }

    fn add(&mut self, products: &[Product]) {
        for product in products {
            if !self.0.contains(product) {
                self.0.push(*product);
            }
        }
    }

    pub fn includes(&self, product: Product) -> bool {
        self.0.contains(&product)
    }

    pub fn is_known(&self) -> bool {
        !self.0.is_empty()
    }

    /// `None` = not known.
    pub fn charges(&self) -> Option<bool> {
        self.is_known().then(|| self.includes(Product::Electricity))
    }
}

impl Product {
    pub fn name(self) -> &'static str {
        match self {
            Self::Petrol => "petrol",
            Self::Diesel => "diesel",
            Self::Lpg => "lpg",
            Self::Cng => "cng",
            Self::Hydrogen => "hydrogen",
            Self::Electricity => "electricity",
            Self::Adblue => "adblue",
            Self::Other => "other",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_free_text_of_a_fuel_type_is_understood() {
        use Product::{Adblue, Cng, Diesel, Electricity, Hydrogen, Lpg, Petrol};
        let all = [Petrol, Diesel, Lpg, Cng, Hydrogen, Electricity, Adblue];
        let cases: [(&str, &[Product]); 17] = [
            ("Petrol", &[Petrol]),
            ("Super E10", &[Petrol]),
            ("benzin", &[Petrol]),
            ("ガソリン", &[Petrol]),
            ("DIESEL", &[Diesel, Adblue]),
            ("Gasoil", &[Diesel, Adblue]),
            ("軽油", &[Diesel, Adblue]),
            ("LPG", &[Petrol, Lpg]),
            ("cng/petrol", &[Petrol, Cng]),
            ("hydrogen", &[Hydrogen]),
            ("BEV", &[Electricity]),
            ("electric", &[Electricity]),
            ("hybrid", &[Petrol, Diesel, Adblue]),
            ("PHEV", &[Petrol, Diesel, Electricity, Adblue]),
            ("plug-in hybrid (petrol)", &[Petrol, Electricity]),
            ("diesel hybrid", &[Diesel, Adblue]),
            ("steam", &[]),
        ];
        for (text, expected) in cases {
            let takes = Takes::of(text);
            let taken: Vec<_> = all.into_iter().filter(|product| takes.includes(*product)).collect();
            assert_eq!(taken, expected, "{text}");
        }
    }
}
