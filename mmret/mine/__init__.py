"""Mining: neighbours within a band of similarity by three signals, and from them pairs with hard negatives."""
